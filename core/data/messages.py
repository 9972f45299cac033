"""Every sentence about class data, by its code.

A :class:`~core.errors.Problem` carries its ``code`` and the ``values`` its sentence was built from,
so that the pages can say the same in another language with the same named fields. Places (``row
7``, ``line 3``) are not part of a sentence: a finding that concerns many rows is told once and
names the first of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from core.errors import DataError, Problem, Severity

MOST_PLACES = 10  # rows that one sentence names
LONGEST_VALUE = 200  # characters of a value from the file that a sentence repeats


@dataclass(frozen=True)
class Message:
    """A sentence with named fields, and what to do about it."""

    what: str
    action: str = ""
    severity: Severity = "warning"


def _error(what: str, action: str = "") -> Message:
    return Message(what, action, "error")


CODES: dict[str, Message] = {
    # the file as a whole
    "file.missing": _error("There is no such file.", "Choose the file again."),
    "file.folder": _error("This is a folder.", "Choose the class file in it."),
    "file.unreadable": _error(
        "The file could not be opened.",
        "Close it in other programs and check that you may read it.",
    ),
    "file.empty": _error("The file is empty.", "Choose a file with questions and answers."),
    "file.too_large": _error(
        "The file is too large: {size} MB, at most {limit} MB can be read.",
        "Split it, or import it on the command line: data FILE --import FOLDER.",
    ),
    "file.damaged": _error(
        "The file holds no text and is probably damaged.", "Take another copy of it."
    ),
    "file.type": _error("Files of the type {suffix} are not accepted.", "Accepted are {accepted}."),
    "file.kind": _error("This is {kind}, not a class file.", "Accepted are {accepted}."),
    "file.crashed": _error(
        "The file made its reader stop.", "Save it again as CSV or .xlsx and choose that."
    ),
    "file.timeout": _error(
        "Reading the file took longer than {seconds} seconds.", "Split it into smaller files."
    ),
    "file.memory": _error("The file needs too much memory.", "Split it into smaller files."),
    "large.kind": _error(
        "A file of this size is read only as CSV, TSV, JSONL or Parquet.",
        "Save it as one of these, or split it.",
    ),
    "large.not_edited": _error(
        "The rows of a class of this size are shown, not edited.",
        "Correct its file in another program and upload it again.",
    ),
    "large.damaged": _error("The imported class was changed or damaged.", "Import the file again."),
    "large.line": _error(
        "A line has more than {limit} MB.", "Save the data with one example on each line."
    ),
    "file.other_format": Message(
        "The name ends in {suffix}, but by its content the file is {format}; it was read as that."
    ),
    "file.no_suffix": Message(
        "The name has no ending; by its content the file was read as {format}."
    ),
    # text
    "encoding.guessed": Message(
        "The text is not UTF-8; its encoding was taken for {encoding}.",
        "Look at the preview, and choose another encoding if letters are wrong.",
    ),
    "encoding.unknown": _error(
        "There is no text encoding {encoding!r}.",
        "Known are for example utf-8, gb18030, big5, shift_jis and cp1252.",
    ),
    "encoding.bad_bytes": Message(
        "There are bytes here that are no text in the encoding {encoding}; left out.",
        "Type the row again, or choose another encoding.",
    ),
    "encoding.cut_off": Message(
        "The file ends in the middle of a character; the last row is cut off and left out.",
        "Take another copy of the file.",
    ),
    "text.control": Message("Invisible control characters were removed."),
    "text.half_character": Message(
        "There is half a character here (a lone surrogate); left out.", "Type the text again."
    ),
    # tables
    "table.no_rows": _error(
        "There are no rows below the header.", "Add questions and answers below it."
    ),
    "table.no_examples": _error(
        "No row has both a question and an answer.",
        "Fill in the rows named, or choose the columns.",
    ),
    "table.one_column": _error(
        "An answer column is needed; the only column is {columns}.",
        "Add a column with the answers.",
    ),
    "table.unknown_column": _error(
        "There is no column {column!r}; the columns are {columns}.", "Choose one of them."
    ),
    "table.same_column": _error(
        "Question and answer are both the column {column!r}.", "Choose two columns of {columns}."
    ),
    "table.guessed_columns": Message(
        "The columns were guessed: questions from {question!r}, answers from {answer!r}.",
        "Choose others if that is wrong; there are {columns}.",
    ),
    "table.no_header": Message(
        "The first row looks like a question already, so there is no header: questions were read "
        "from column {question}, answers from column {answer}.",
        "Add a first row with the names question and answer.",
    ),
    "table.above_header": Message(
        "Left out, since it stands above the header, which was found in row {header}."
    ),
    "table.second_header": Message(
        "This row names the columns once more, in other words; left out.", "", "info"
    ),
    "table.two_headers": Message(
        "The header has two rows; the names in both were joined.", "", "info"
    ),
    "table.header_again": Message("This row repeats the header; left out.", "", "info"),
    "table.column_twice": _error(
        "The column {column!r} was chosen twice.", "Choose others of {columns}."
    ),
    "table.unknown_part": _error(
        "An example has no part {part!r} with these columns.", "Its parts are {parts}."
    ),
    "table.turn_missing": Message(
        "An earlier question or answer of this conversation is empty; left out.", "Fill it in."
    ),
    "table.repeated_header": Message(
        "The column name {column!r} comes more than once; the others were numbered."
    ),
    "table.no_question": Message("The question is empty; left out.", "Fill it in."),
    "table.no_answer": Message("The answer is empty; left out.", "Fill it in."),
    "table.extra_cells": Message(
        "There are more cells than columns, probably because of a {delimiter} inside a text; "
        "left out.",
        'Put the text in quotation marks: "...".',
    ),
    "table.open_quote": Message(
        "A quotation mark is opened and never closed; left out.", "Close it or take it away."
    ),
    "table.backslash_quotes": Message(
        'Quotation marks after a backslash (\\") were read as part of the text.'
    ),
    "table.too_many_rows": Message(
        "Only the first {limit} rows were read.", "Split the file to use the others."
    ),
    "table.too_many_columns": Message("Only the first {limit} columns were read."),
    "table.chosen_learned": Message(
        "These are pairs of a chosen and a rejected answer: the chosen one is learned.",
        severity="info",
    ),
    "table.chosen_is_rejected": Message(
        "The chosen answer equals the rejected one; left out.", "Correct one of them."
    ),
    "table.no_rejected": Message("The rejected answer is missing; left out.", "Fill it in."),
    # questions with options
    "choices.no_such_option": Message(
        "The answer {answer!r} names no option that is there; left out.",
        "Correct the answer, or fill in the options.",
    ),
    "choices.none_marked": Message(
        "No option is marked as right; left out.", "Mark the right one, for example with an x."
    ),
    "edit.unknown_row": _error("There is no row {row}; there are {rows}.", "Choose one of them."),
    # Excel and HTML
    "excel.no_workbook": _error(
        "This is {kind} and no Excel workbook.", "Save the table as .xlsx in Excel and choose that."
    ),
    "excel.password": _error(
        "The workbook is protected by a password.",
        "In Excel choose File, Info, Protect Workbook, Encrypt with Password, delete the "
        "password, and save.",
    ),
    "excel.damaged": _error(
        "The workbook is damaged and cannot be opened.",
        "Open it in Excel, let Excel repair it and save it again as .xlsx.",
    ),
    "excel.too_large": _error(
        "The workbook is too large when unpacked ({size} MB).",
        "Copy the questions and answers to a new workbook.",
    ),
    "excel.not_safe": _error(
        "The workbook is not safe to open: {reason}.",
        "Open it in Excel and save it again as .xlsx.",
    ),
    "excel.empty": _error(
        "The workbook is empty: no sheet has rows.", "Add questions and answers."
    ),
    "excel.unknown_sheet": _error(
        "There is no sheet {sheet!r}; the sheets are {sheets}.", "Choose one of them."
    ),
    "excel.sheets": Message(
        "Several sheets have rows: {sheets}. Only {sheet!r} was read.",
        "Choose another sheet if that is wrong.",
    ),
    "excel.sheets_joined": Message(
        "Several sheets have rows: {sheets}. Those with the same columns were read as one class: "
        "{sheet}.",
        "Choose a single sheet if that is wrong.",
    ),
    "excel.macros": Message("The workbook holds macros; they were not run.", "", "info"),
    "excel.merged": Message("A merged cell counts for each of its rows.", "", "info"),
    "excel.hidden_rows": Message("Rows that are hidden in Excel were read too.", "", "info"),
    "excel.values": Message(
        "In {kind} files dates and percentages may look different.",
        "Save it as .xlsx if something is wrong.",
        "info",
    ),
    "excel.error_cell": Message(
        "A formula gives an error ({cell}); left out.", "Correct it in Excel."
    ),
    "excel.no_value": Message(
        "A formula has no stored result; left out.", "Open the file in Excel and save it."
    ),
    "excel.digits": Message(
        "A number has more than 15 digits, of which Excel keeps only 15: the last ones may be "
        "lost.",
        "Format the cell as text and type the number again.",
    ),
    "excel.xls": Message(
        "This is an old .xls file: dates and percentages may look different.",
        "Save it as .xlsx if something is wrong.",
    ),
    "html.table": Message(
        "This is an HTML page, not a workbook; its table was read.",
        "Save it as .xlsx if something is missing.",
    ),
    "html.no_table": _error("This HTML page has no table.", "Save the questions as .xlsx or CSV."),
    "parquet.damaged": _error(
        "The Parquet file is damaged, or protected by a key.", "Write it again, or take CSV."
    ),
    # JSON
    "json.syntax": _error("This is no valid JSON: {fault} (column {column}).", "Correct it there."),
    "json.single_quotes": _error(
        "JSON strings need double quotes, these have single quotes.",
        "Save the data with a JSON writer: \"...\" instead of '...'.",
    ),
    "json.too_deep": _error("The JSON is nested too deeply.", "Use a list of flat objects."),
    "json.not_a_list": _error(
        "A list of examples is expected, not {kind}.",
        'Write for example [{{"question": "2 + 2?", "answer": "4"}}].',
    ),
    "json.pairs": Message(
        "The file maps texts to texts; each was read as a question and its answer.", "", "info"
    ),
    "json.no_texts": _error(
        "The objects hold no texts that could be questions and answers; their keys are {keys}.",
        'Write for example {{"question": "2 + 2?", "answer": "4"}}.',
    ),
    "json.bad_line": Message(
        "This line is no valid JSON: {fault} (column {column}); left out.", "Correct it."
    ),
    "json.no_object": Message("This is no object but {kind}; left out.", "Write {{...}}."),
    "json.duplicate_key": Message(
        "The key {key!r} comes more than once; its last value is used.", "Remove the others."
    ),
    "json.not_a_number": Message("{value} is no JSON number; it was read as text."),
    "json.long_number": Message(
        "A number of {digits} digits was read as text.", "Put it in quotation marks."
    ),
    # conversations
    "chat.empty": Message("There are no messages; left out.", "Fill them in."),
    "chat.no_messages": Message(
        "None of the known keys (messages, conversations, question, instruction ...) is here; "
        "left out.",
        'Write for example {{"question": ..., "answer": ...}}.',
    ),
    "chat.bad_message": Message(
        "A message has no text; left out.", "Each message needs a role and a text."
    ),
    "chat.picture": Message(
        "A message holds something other than text (a picture, sound); left out.",
        "Only texts can be learned.",
    ),
    "chat.unknown_role": Message(
        "The role {role!r} is unknown; left out.", "Rename it to system, user or assistant."
    ),
    "chat.leading_reply": Message(
        "The conversation starts with a reply; that reply is left out.",
        "Let it start with a question.",
    ),
    "chat.merged": Message("Two messages in a row have the same role; they were joined."),
    "chat.trailing_question": Message(
        "The last question has no answer and is left out.", "Add the answer."
    ),
    "chat.no_reply": Message("The conversation has no reply; left out.", "Add the answer."),
    "chat.late_system": Message(
        "A system message in the middle of a conversation is left out.", "Put it first."
    ),
    # questions of a learning platform, cards, documents
    "question.none": _error(
        "No question was found in the file.",
        "Write for example Q: and A: before questions and answers, or use a table of two columns.",
    ),
    "question.none_answered": _error(
        "The file has questions ({count}), but the right answer of none of them can be read.",
        "Add the answers, or export the questions with their answers.",
    ),
    "question.no_answer": Message(
        "The right answer is not in the file; the question is left out.", "Add the answer."
    ),
    "question.bad_answer": Message(
        "The answer {answer!r} is none of the options; left out.", "Correct the answer."
    ),
    "question.computed": Message(
        "A program ({kind}) fills in the numbers of this question, and it is never run; left out.",
        "Write the question with its numbers and its answer.",
    ),
    "question.one_of_many": Message(
        "The numbers of this question vary; the first set of numbers in the file was taken.",
        severity="info",
    ),
    "question.unknown_type": Message(
        "A question of the type {kind} has no answer in words; left out.",
        "Write it as a question with a text answer.",
    ),
    "question.description": Message(
        "This is a text without a question; left out.", severity="info"
    ),
    "question.stray": Message("This belongs to no question; left out.", severity="info"),
    "question.bad_block": Message(
        "This cannot be read as a question: {fault}; left out.", "Correct it."
    ),
    "question.picture": Message(
        "There is a picture, sound or film, which cannot be learned; the text was kept.",
        "Remove the question if it makes no sense without it.",
    ),
    "question.html": Message(
        "The texts hold HTML; its tags were taken away, the text was kept.", severity="info"
    ),
    "xml.syntax": _error(
        "The XML is damaged: {fault}.", "Export the questions again, or correct that line."
    ),
    "xml.not_safe": _error(
        "The XML is not safe to open: it defines its own entities (DTD).",
        "Export the questions again from where they come.",
    ),
    "xml.too_deep": _error("The XML is nested too deeply.", "Export the questions again."),
    "xml.unknown": _error(
        "This is an XML file without questions (its first element is {root!r}).",
        "Moodle XML and QTI can be read: export the questions as one of them.",
    ),
    "xml.manifest": _error(
        "This is only the table of contents of a package (imsmanifest.xml).",
        "Choose the whole package (.zip or .imscc).",
    ),
    "backup.no_bank": _error(
        "This backup holds no question bank (questions.xml).",
        "Back the course up with its question bank, or export the questions as Moodle XML.",
    ),
    "package.damaged": _error(
        "The package is damaged and cannot be opened.", "Export it again, or take another copy."
    ),
    "package.not_safe": _error(
        "The package is not safe to open: {reason}.", "Export it again from where it comes."
    ),
    "package.too_large": _error(
        "The package is too large when unpacked ({size} MB).", "Export fewer questions at once."
    ),
    "package.password": _error(
        "The package is protected by a password.", "Export it again without one."
    ),
    "package.part": Message(
        "This part of the package cannot be read; left out.", "Export the package again."
    ),
    "anki.damaged": _error(
        "The Anki collection is damaged, or made by a version that is not known.",
        "In Anki choose File, Export, Notes in Plain Text, and choose that file.",
    ),
    "word.emphasis": Message(
        "This option is bold or highlighted; it was taken for a right one unless an answer says "
        "otherwise.",
        "Look whether that is meant.",
        "info",
    ),
    "word.damaged": _error(
        "The Word document is damaged and cannot be opened.",
        "Open it in Word and save it again as .docx.",
    ),
    "pdf.damaged": _error(
        "The PDF is damaged and cannot be opened.", "Take another copy, or save the text as .docx."
    ),
    "pdf.password": _error(
        "The PDF is protected by a password.", "Save it without one and choose that."
    ),
    "pdf.no_text": _error(
        "The PDF holds pictures of text but no text (a scan).",
        "Recognise its text with a scanner's program, or type the questions into a table.",
    ),
    "pdf.too_many_pages": Message(
        "Only the first {limit} pages were read.", "Split the file to use the others."
    ),
    "html.template": _error(
        "This page makes its questions and answers by a program, which is never run.",
        "Write the questions with their numbers into a table.",
    ),
    "yaml.no_conversations": _error(
        "This is a YAML file without conversations (a recipe or other settings), not a class file; "
        "its keys are {keys}.",
        "A class in YAML has a list under the key conversations.",
    ),
    "yaml.bad_item": Message(
        "This conversation is no valid YAML: {fault}; left out.", "Correct it."
    ),
    "yaml.turns": Message(
        "Conversations of more than two lines were read as said in turn: a person, the assistant, "
        "the person ...",
        "Where further lines are other answers to the first one, put each beside its question.",
        "info",
    ),
    # pairs of questions
    "pairs.columns": _error(
        "Two columns with questions and one that says whether they mean the same are needed; the "
        "columns are {columns}.",
        "Name them question1, question2 and label, or choose them.",
    ),
    "pairs.guessed": Message(
        "The columns were guessed: questions from {first!r} and {second!r}, the answer from "
        "{label!r}.",
        "Choose others if that is wrong; there are {columns}.",
    ),
    "pairs.label": Message(
        "The label {label!r} says neither that both questions mean the same nor that they do not; "
        "left out.",
        "Write 1 (or yes) for the same meaning, 0 (or no) for another.",
    ),
    "pairs.empty": Message("One of the two questions is empty; left out.", "Fill it in."),
    "pairs.equal": Message(
        "Both questions are the same text; left out, for there is nothing to learn from it.",
        "Change one of them.",
    ),
    "pairs.repeated": Message(
        "The same two questions stand further up, in either order; left out.", "", "info"
    ),
    "pairs.contradiction": Message(
        "The same two questions stand further up with the other label; left out.",
        "Keep the right one.",
    ),
    "pairs.one_kind": _error(
        "All {pairs} pairs have the same label: there is nothing to tell apart.",
        "Add pairs of the other kind.",
    ),
    "pairs.too_few": _error(
        "There are only {pairs} pairs that can be used; at least {least} are needed, some of each "
        "kind.",
        "Add pairs.",
    ),
    "pairs.small_slice": Message(
        "The pairs are linked by common questions so closely that only {pairs} could be kept for "
        "the {slice}; marks on so few say little.",
        "Add pairs about other questions, or choose a random split.",
    ),
    # health
    "health.one_example": Message(
        "There is only 1 example: too little to learn from or to test with.", "Add more.", "info"
    ),
    "health.duplicates": Message(
        "The same question and answer stand further up (duplicate); {distinct} of {examples} "
        "examples are distinct.",
        "Remove them, unless they shall count more.",
    ),
    "health.near_duplicates": Message(
        "Nearly the same question (near duplicate) stands further up.",
        "Nothing needs to be done: they stay on one side of the quiz.",
        "info",
    ),
    "health.contradictions": Message(
        "The same question has different answers.", "Keep the right one."
    ),
    "health.long": Message(
        "The text is long (up to {characters} characters): what is beyond about {kept} characters, "
        "in Chinese a third of that, is cut off.",
        "Shorten it, split it into several questions, or raise the longest example.",
    ),
    "health.bidi": Message(
        "There are invisible characters that turn the direction of writing.",
        "Remove them unless they are meant to be there.",
    ),
    "health.marks": Message("Many accents are stacked on one letter.", "Type the text again."),
    "health.mojibake": Message(
        "The text looks garbled ({sample}): it was probably saved in a wrong encoding.",
        "Export it again as UTF-8.",
    ),
    "health.control_words": Message(
        "There are words here that steer a model ({sample}); they are learned as plain text."
    ),
    "health.email": Message(
        "Possible personal data found: e-mail address.",
        "Black it out unless the model may repeat it.",
    ),
    "health.phone": Message(
        "Possible personal data found: phone number.",
        "Black it out unless the model may repeat it.",
    ),
    "health.resident_id": Message(
        "Possible personal data found: resident id.", "Black it out unless the model may repeat it."
    ),
    "health.national_id": Message(
        "Possible personal data found: national id.", "Black it out unless the model may repeat it."
    ),
    "health.student_number": Message(
        "Possible personal data found: student number.",
        "Black it out unless the model may repeat it.",
    ),
    "health.birth_date": Message(
        "Possible personal data found: birth date.", "Black it out unless the model may repeat it."
    ),
    "health.account": Message(
        "Possible personal data found: messenger account.",
        "Black it out unless the model may repeat it.",
    ),
    "health.name": Message(
        "Possible personal data found: name.", "Black it out unless the model may repeat it."
    ),
    "health.secrets": Message(
        "Possible passwords or keys found.", "Black them out: the model may repeat them."
    ),
    "health.leak": Message(
        "A question that is kept for the quiz stands word for word inside this row, which is "
        "learned.",
        "Leave the row out, or the quiz asks what was practised.",
    ),
    "health.empty": Message(
        "The answer says nothing: it is empty or holds only a place (TODO, TBD).",
        "Fill it in or leave the row out.",
    ),
    "health.echo": Message(
        "The answer only repeats the question.", "Write the answer or leave the row out.", "info"
    ),
    "health.mixed": Message(
        "The question or the answer is in another language than in most rows.",
        "Leave the rows out unless they are meant to be there.",
        "info",
    ),
    "health.html": Message(
        "There is HTML in the text ({sample}), which the model would learn to write.",
        "Turn it into plain text, unless the class is about HTML.",
        "info",
    ),
    "health.latex": Message(
        "There are LaTeX commands in the text ({sample}), which the model would learn to write.",
        "Turn them into plain text, unless the class shall write LaTeX.",
        "info",
    ),
    # tokens of the chosen model
    "tokens.truncated": Message(
        "The answer is longer than the chosen model is trained on: with its question it takes up "
        "to {longest} tokens, {limit} are kept, and the rest is cut off.",
        "Shorten it to whole sentences, or raise the longest example.",
    ),
    "tokens.no_room": Message(
        "The question alone fills the {limit} tokens that are kept, so that nothing of its answer "
        "is learned.",
        "Shorten the question, raise the longest example, or leave the row out.",
    ),
}


def problem(code: str, where: str = "", **values: object) -> Problem:
    """Build the problem of a code.

    Args:
        code: a key of :data:`CODES`.
        where: its place in the file, in the teacher's words.
        **values: the named fields of the sentence.
    """
    message = CODES[code]
    texts = {k: _short(v) for k, v in values.items()}
    return Problem(
        where=where,
        what=message.what.format(**texts),
        action=message.action.format(**texts),
        severity=message.severity,
        code=code,
        values=tuple(texts.items()),
    )


def data_error(code: str, where: str = "", **values: object) -> DataError:
    """Build the error of a code; see :func:`problem`."""
    found = problem(code, where, **values)
    return DataError(found.what, where=found.where, action=found.action, code=code)


class Findings:
    """Collects findings while a file is read; what concerns many rows becomes one problem."""

    def __init__(self) -> None:
        """Start with none."""
        self._places: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = {}

    @staticmethod
    def key(code: str, values: Mapping[str, object]) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Return what findings that are told together have in common."""
        return code, tuple((k, _short(v)) for k, v in values.items())

    def add(self, code: str, where: str = "", **values: object) -> None:
        """Note a finding at a place; findings with the same code and values are told together."""
        key = self.key(code, values)
        places = self._places.setdefault(key, [])
        if where and where not in places[-1:]:
            places.append(where)

    def extend(self, others: Findings) -> None:
        """Take over the findings of another collection, after one's own."""
        for key, places in others._places.items():
            self._places.setdefault(key, []).extend(places)

    def within(self, place: str) -> Findings:
        """Return the same findings, each place named inside a larger one (``Unit 1 row 3``)."""
        inside = Findings()
        for key, places in self._places.items():
            inside._places[key] = [f"{place} {where}" for where in places] or [place]
        return inside

    def problems(self) -> list[Problem]:
        """Return one problem for each kind of finding, in the order in which they came up."""
        return [
            problem(code, named(places), **dict(values))
            for (code, values), places in self._places.items()
        ]


def named(places: list[str], total: int = 0) -> str:
    """Return ``row 3, row 5, row 9`` and how many more there are (of ``total``, if not listed)."""
    text = ", ".join(places[:MOST_PLACES])
    more = max(total, len(places)) - MOST_PLACES
    return f"{text} and {more} more" if more > 0 else text


def _short(value: object) -> str:
    """Return a value as one line of bounded length that is safe in a log and on a page."""
    text = "".join(c if c.isprintable() else " " for c in str(value))
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= LONGEST_VALUE else text[: LONGEST_VALUE - 1] + "…"
