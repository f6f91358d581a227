"""Prints the table of model families that is in docs/families.md.

python experiments/families.py
"""

from memcomp.convert.families import families_table

if __name__ == "__main__":
    print(families_table())
