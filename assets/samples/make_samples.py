"""Make the two sample classes from the data they come from; see SOURCE.md.

    python assets/samples/make_samples.py ../shared/data

Both classes have short answers of one form, so that a small model learns it in a minute, and
questions that a teacher would ask. Nothing is drawn at random: the same data gives the same files.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Places whose state or capital is disputed, dependent territories, countries with several capitals
# and capitals that their country's name gives away: no questions for a first quiz.
_LEFT_OUT = """
    Abkhazia; Andorra; Aruba; Bolivia; Cook Islands; Curaçao; Djibouti; Dominica; Eswatini;
    Equatorial Guinea; Faroe Islands; Federated States of Micronesia; French Polynesia; Greenland;
    Guam; Guatemala; Guinea-Bissau; Israel; Ivory Coast; Kiribati; Kosovo; Kuwait; Luxembourg;
    Marshall Islands; Mexico; Monaco; Nauru; New Caledonia; Niue; Northern Cyprus; Palau; Palestine;
    Panama; Puerto Rico; Sahrawi Arab Democratic Republic; Saint Kitts and Nevis; Saint Lucia;
    Saint Vincent and the Grenadines; San Marino; Singapore; Somaliland; South Africa;
    South Ossetia; Sri Lanka; São Tomé and Príncipe; Taiwan; Tonga; Transnistria; Tuvalu;
    United States Virgin Islands; Vatican City; Yemen; Åland Islands; Burundi; Comoros; Grenada;
    Antigua and Barbuda; El Salvador; Seychelles; Northern Ireland; United Kingdom; Indonesia
"""
LEFT_OUT = {" ".join(name.split()) for name in _LEFT_OUT.split(";")}

# Rows of CMATH with a slip (a word is missing) or more than one right answer (a rest is left).
SLIPS = ("贝贝排9", "要多少个字", "这两捆书", "小熊抱走了4，", "每页贴了7张", "74本课外书")

ENGLISH_QUESTIONS = (
    "What is the capital of {country}?",
    "{capital} is the capital of which country?",
)
ENGLISH_ANSWER = "{capital} is the capital of {country}."


def english_rows(data: Path, most: int) -> list[tuple[str, str]]:
    """Return capitals of all continents, asked for from either side in turn."""
    path = data / "educator_files" / "anki" / "ultimate_geography_capital.csv"
    with path.open(encoding="utf-8", newline="") as file:
        pairs = [(r["country"], r["capital"]) for r in csv.DictReader(file)]
    pairs = [(_with_article(c), capital) for c, capital in pairs if c not in LEFT_OUT]
    spread = [pairs[i * len(pairs) // most] for i in range(min(most, len(pairs)))]
    rows = []
    for i, (country, capital) in enumerate(spread):
        names = {"country": country, "capital": capital}
        question = ENGLISH_QUESTIONS[i % len(ENGLISH_QUESTIONS)]
        rows.append((question.format(**names), ENGLISH_ANSWER.format(**names)))
    return rows


def chinese_rows(data: Path, most: int) -> list[tuple[str, str]]:
    """Return the shortest story problems of grades 1 and 2, answered in a whole sentence."""
    path = data / "zh_math" / "cmath_dev.jsonl"
    problems = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    rows = []
    for problem in problems:
        question = problem["input"].strip().replace("?", "？")
        answer = sentence(question, str(problem["golden"]))
        if int(problem["grade"]) <= 2 and answer and not any(s in question for s in SLIPS):
            rows.append((question, answer))
    order = {row: i for i, row in enumerate(rows)}
    shortest = sorted(rows, key=lambda row: (len(row[0]), order[row]))[:most]
    return sorted(shortest, key=lambda row: order[row])


def sentence(question: str, number: str) -> str:
    """Return the question's last clause as a statement with the number in the asked place.

    ``她还剩多少页没有看？`` and 9 give ``答：她还剩9页没有看。``; empty if it asks otherwise.
    """
    clause = re.split(r"[，。；]", question.rstrip("？。 "))[-1]
    clause = re.sub(r"^(那么|问|如果)", "", clause)
    if not number.isdecimal() or len(re.findall("多少|几", clause)) != 1 or "第几" in clause:
        return ""
    clause = re.sub("(多少|几)钱", "多少元", clause)
    return f"答：{re.sub('多少|几', number, clause)}。"


def _with_article(country: str) -> str:
    plural = ("Netherlands", "Philippines", "Maldives", "Solomon Islands", "Comoros")
    union = ("United States", "United Arab", "Democratic Republic", "Republic", "Central African",
             "Dominican Republic", "Czech Republic")  # fmt: skip
    if country.startswith("The "):
        return f"the {country[4:]}"
    return f"the {country}" if country.startswith((*plural, *union)) else country


def _write(name: str, header: tuple[str, str], rows: list[tuple[str, str]]) -> None:
    # with a BOM, so that Excel too reads it as UTF-8
    with (HERE / name).open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])


def main() -> None:
    """Write both classes beside this script."""
    parser = argparse.ArgumentParser(description="Make the two sample classes.")
    parser.add_argument("data", type=Path, help="folder with educator_files/ and zh_math/")
    parser.add_argument("--english", type=int, default=116, help="rows of the English class")
    parser.add_argument("--chinese", type=int, default=84, help="rows of the Chinese class")
    options = parser.parse_args()
    _write("english.csv", ("question", "answer"), english_rows(options.data, options.english))
    _write("chinese.csv", ("问题", "答案"), chinese_rows(options.data, options.chinese))


if __name__ == "__main__":
    main()
