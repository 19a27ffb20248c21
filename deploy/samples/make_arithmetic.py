"""Writes rows of short arithmetic for GRPO: a question, and the number that answers it.

    python3 deploy/samples/make_arithmetic.py --rows 2000 --seed 1 > arithmetic.jsonl
"""

import argparse
import json
import random


def row(random_):
    kind = random_.choice(["plus", "minus", "times"])
    if kind == "times":
        a, b = random_.randint(2, 9), random_.randint(2, 9)
        answer = a * b
    else:
        a, b = random_.randint(1, 20), random_.randint(1, 20)
        if kind == "minus":
            a, b = max(a, b), min(a, b)
        answer = a + b if kind == "plus" else a - b
    return {"question": f"What is {a} {kind} {b}? Answer with the number only.", "answer": str(answer)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    random_ = random.Random(args.seed)
    for _ in range(args.rows):
        print(json.dumps(row(random_)))


if __name__ == "__main__":
    main()
