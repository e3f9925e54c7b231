#!/usr/bin/env python3
"""Trains a small byte-level BPE on the Debian texts and writes tokenizer.json, variants of it, and
tokenizer.want: texts and the tokens that Hugging Face's tokenizers finds in them. Run in this folder
with the package tokenizers. A line of the result: name of the variant, the text as JSON, tokens."""
import json

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

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

# Tokenizers as newer models have them. Their merges are learnt from texts that are not cut, and so join
# pieces wherever a wrong cut leaves them in one.
texts += [
    "I'LL SAY it'S we'VE THEY'rE '\u017f 'K", "1234567 1,234.5678 \u0661\u0662\u0663\u0664 \u2163\u00bd\u00b2 \uff11\uff12\uff13\uff14",
    "a\n\nb  \n  c\r\n\r\n\td   \n\n\n  ", "x \u180e \u180ey \u200b z\x85\u2028w\x1cv", "say:\n(\"quoted\")...\n\n//#!/\r\n?!",
    "cafe\u0301 caf\u00e9 \u1112\u1161\u11ab\ud55c A\u030a\u212b\ufb01 e\u0323\u0302\n\u0301x \u0928\u093c\u0929",
    "camelCase HTTPServer iPhone \u01c5\u02b0 \u6771\u4eac\u30bf\u30ef\u30fc2024\u5e74", "w\u00f6rt wo\u0308rt sw\u00f6rt w\u00f6rt\u3002 <tok>w\u00f6rt",
]
WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


uncut = Tokenizer(models.BPE())
uncut.pre_tokenizer = byte_level
uncut.train_from_iterator([t.replace("a" * 100, "") for t in texts] * 2,
                          trainers.BpeTrainer(vocab_size=600, special_tokens=["<|endoftext|>"],
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
uncut.add_tokens([AddedToken("w\u00f6rt", single_word=True, normalized=True)])
uncut.add_special_tokens(["<tok>"])


def as_model(name, steps, normalizer=None, ignore_merges=False):
    v = Tokenizer.from_str(uncut.to_str())
    v.model.ignore_merges = ignore_merges
    v.pre_tokenizer = pre_tokenizers.Sequence(steps)
    if normalizer:
        v.normalizer = normalizer
    v.save(f"{name}.json", pretty=False)


as_model("llama3", [split(WORDS % r"\p{N}{1,3}"), byte_level], ignore_merges=True)
as_model("qwen2", [split(WORDS % r"\p{N}"), byte_level], normalizers.NFC())
as_model("steps", [split(r"[^\s\u3040-\u30ff]+|\s*[\r\n]+", "removed", True), pre_tokenizers.Split("...", "removed"),
                   pre_tokenizers.Digits(individual_digits=True), split(r"[\p{Lu}\p{Lt}]?[\p{Ll}\p{Han}]+"),
                   pre_tokenizers.ByteLevel(add_prefix_space=True)],
         normalizers.Sequence([normalizers.NFKC()]))

with open("tokenizer.want", "w") as f:
    for name in "tokenizer", "strip", "words", "llama3", "qwen2", "steps":
        tok = Tokenizer.from_file(f"{name}.json")
        for text in texts:
            ids = tok.encode(text, add_special_tokens=False).ids
            f.write(f"{name} {json.dumps(text)}\n{' '.join(map(str, ids))}\n")
