#!/usr/bin/env python3
"""Trains a small byte-level BPE on the Debian texts and writes tokenizer.json, variants of it, and
tokenizer.want: texts and the tokens that Hugging Face's tokenizers finds in them. Run in this folder
with the package tokenizers. A line of the result: name of the variant, the text as JSON, tokens."""
import json

from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers

t = Tokenizer(models.BPE())
t.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
t.train([f"/usr/share/common-licenses/{n}" for n in ("GPL-3", "MPL-2.0")],
        trainers.BpeTrainer(vocab_size=500, special_tokens=["<|endoftext|>"],
                            initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
t.save("tokenizer.json", pretty=False)
plain = json.load(open("tokenizer.json"))


def variant(name, change):
    v = json.loads(json.dumps(plain))
    change(v)
    json.dump(v, open(f"{name}.json", "w"), ensure_ascii=False, separators=(",", ":"))


def strip(v):
    v["added_tokens"] += [
        {"id": 500, "content": "<mask>", "single_word": False, "lstrip": True, "rstrip": True,
         "normalized": False, "special": True},
        {"id": 501, "content": "<mask>s", "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True},
        {"id": 502, "content": "whole", "single_word": True, "lstrip": False, "rstrip": False,
         "normalized": False, "special": False}]
    v["pre_tokenizer"]["add_prefix_space"] = True


def words(v):
    v["model"]["ignore_merges"] = True
    v["pre_tokenizer"]["use_regex"] = False
    v["model"]["merges"] = [" ".join(m) for m in v["model"]["merges"]][:120]


variant("strip", strip)
variant("words", words)

texts = [
    "", " ", "  ", "a", " a", "The GNU General Public License", "I'll say it's we've they're I'd 'tis 'S",
    "tabs\tand\nnewlines\n\n  and   spaces   ", "trailing  \n", "x  \u00a0 y\u2003z", "12345 67.89 1e-5 \u00bd \u0663\u0664",
    "gr\u00fc\u00dfe aus K\u00f6ln, \u00c5ngstr\u00f6m \u0130stanbul", "\u0434\u043e\u0431\u0440\u044b\u0439 \u0434\u0435\u043d\u044c",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3002", "emoji \U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467!", "e\u0301 combining \u0928\u092e\u0938\u094d\u0924\u0947",
    "<|endoftext|>", "one<|endoftext|> two <|endoftext|>three", "a <mask> b<mask>s <mask>", "whole wholes the whole, awhole",
    "don't 'quote' \"double\" ''", "a" * 600, "=+-*/ @@@ !?!? ---- ....", "\r\n\r\n x\r\n", "under_score __init__ a_1",
    open("/usr/share/common-licenses/BSD").read(),
]
with open("tokenizer.want", "w") as f:
    for name in "tokenizer", "strip", "words":
        tok = Tokenizer.from_file(f"{name}.json")
        for text in texts:
            ids = tok.encode(text, add_special_tokens=False).ids
            f.write(f"{name} {json.dumps(text)}\n{' '.join(map(str, ids))}\n")
