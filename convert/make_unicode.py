#!/usr/bin/env python3
"""Writes unicode.def: the code points of the classes L (letters), N (numbers) and S (what \\s matches)
as ranges, from Python's unicodedata. Run in this folder."""
import sys
import unicodedata


def is_space(c):  # White_Space of PropList.txt
    return c in "\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" or "\u2000" <= c <= "\u200a"


classes = {"L": lambda c: unicodedata.category(c)[0] == "L",
           "N": lambda c: unicodedata.category(c)[0] == "N", "S": is_space}
with open("unicode.def", "w") as f:
    f.write(f"/* Ranges of code points by class, Unicode {unicodedata.unidata_version}; written by "
            "make_unicode.py. RANGE(class, first, last) */\n")
    for name, test in classes.items():
        first = None
        for u in range(sys.maxunicode + 2):
            inside = u <= sys.maxunicode and test(chr(u))
            if inside and first is None:
                first = u
            elif not inside and first is not None:
                f.write(f"RANGE({name}, 0x{first:X}, 0x{u - 1:X})\n")
                first = None
