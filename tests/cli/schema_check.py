#!/usr/bin/env python3
"""A developer's check: every spec validates against `mpcc schema`, and damaged ones do not.
Usage: schema_check.py SCHEMA.json SPECS_FOLDER; needs the packages jsonschema and PyYAML."""
import copy
import glob
import json
import sys

import jsonschema
import yaml


def best(validator, spec):
    error = jsonschema.exceptions.best_match(validator.iter_errors(spec))
    return f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}" if error else None


def main():
    schema = json.load(open(sys.argv[1]))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    bad = 0
    paths = sorted(glob.glob(sys.argv[2] + "/**/*.yaml", recursive=True))
    for path in paths:
        spec = yaml.load(open(path), loader)
        why = best(validator, spec)
        if why:
            print(f"{path}: {why}")
            bad += 1
        if "layers" not in spec.get("model", {}) or "extends" in spec:
            continue
        for edit in (lambda s: s.update(traner={}), lambda s: s["trainer"].update(max_epochs=[1]),
                     lambda s: s["model"]["layers"].append({"Liner": 3}),
                     lambda s: s.update(optimizer={"type": "SDG"}), lambda s: s.pop("model")):
            wrong = copy.deepcopy(spec)
            edit(wrong)
            if not best(validator, wrong):
                print(f"{path}: a damaged spec validates")
                bad += 1
    print(f"{len(paths)} specs, {bad} complaints")
    return bad != 0


if __name__ == "__main__":
    sys.exit(main())
