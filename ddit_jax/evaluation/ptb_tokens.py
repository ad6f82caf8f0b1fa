"""Captions to Penn Treebank tokens, as the COCO caption scorers want them.

Behaves like the tokenizer of Stanford CoreNLP 3.4.1 with -preserveLines and
-lowerCase, which pycocoevalcap runs in Java: at each place the longest rule
matches, of equals the first. A rule may look ahead, past the end of the line
too: "A." at the end of a caption is one token or two, depending on the next
caption. So a corpus is tokenized as a whole, in its order. Unlike there, no
token is longer than 1,024 characters.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence

# Not in the output of the scorers. Brackets are lower-cased before, so
# "-lrb-" and its like stay: published behaviour, kept.
PUNCTUATION = frozenset(
  "'' ' `` ` -LRB- -RRB- -LCB- -RCB- . ? ! , : - -- ... ;".split()
)

_BLANK = r"[ \t\xa0\u2000-\u200a\u3000]"
_GAP = r"[ \t\xa0\u2000-\u200a\u3000\n]"
_CAPITAL = r"[A-Z\xc0-\xd6\xd8-\xde]"
# \w has numerals that are no letters, such as "²" and "½".
_LETTER = (
  r"(?:[^\W\d_\xb2\xb3\xb9\xbc-\xbe\u2070\u2074-\u2079\u2080-\u2089"
  r"\u2150-\u218b\u2460-\u249b\u2776-\u2793]|[\xad\u0300-\u036f])"
)
_ALNUM = rf"(?:{_LETTER}|\d)"
_APOSTROPHE = r"(?:['\x92\u2019]|&apos;)"
_TICK = r"(?:['`\x91\x92\u2018\u2019\u201b]|&apos;)"
_HYPHEN = r"[-_\u058a\u2010\u2011]"

# A word, also with marks inside: "and.the", "a!b".
_WORD = rf"{_LETTER}{_ALNUM}*(?:[.!?]{_LETTER}{_ALNUM}*)*"
_SUFFIX = rf"{_APOSTROPHE}(?i:[msd]|re|ve|ll)"
_NOT = rf"(?i:n){_TICK}(?i:t)"
_ELISION = rf"(?:[dDoOlL]{_TICK}{_ALNUM})?"  # "d'or", "o'clock"
_COMPOUND = rf"{_ELISION}{_ALNUM}+(?:{_HYPHEN}{_ELISION}{_ALNUM}+)*"
_PART = r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}"
_SLASHED = rf"{_PART}(?:\\?/{_PART}){{1,2}}"

_COMPANY = r"[A-Z]+(?:(?:[+&]|&amp;)[A-Z]+)+"

_NUMBER = r"[-+]?(?:\d*(?:[.:,\xad\u066b\u066c]\d+)+|\d+)"
_FRACTION = r"(?:\d{1,4}[- \xa0])?\d{1,4}(?:\\?/|\u2044)\d{1,4}"
_DATE = r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}"
_SCRIPT_NUMBER = (
  r"[\u207a\u207b\u208a\u208b]?"
  r"(?:[\u2070\xb9\xb2\xb3\u2074-\u2079]+|[\u2080-\u2089]+)"
)
_PHONE = (
  r"(?:\([0-9]{2,3}\)[ \xa0]?"
  r"|(?:\+\+?)?(?:[0-9]{2,4}[- \xa0])?[0-9]{2,4}[- \xa0])"
  r"[0-9]{3,4}[- \xa0]?[0-9]{3,5}"
  r"|(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}"
)

_PATH_END = r"[^\s\"<>|.!?(){},-]"
_URL = rf"https?://[^\s\"<>|()]+{_PATH_END}"
_HOST = (
  r"(?:www\.(?:[^\s\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}"
  r"|(?:[^\s\"`'<>|.!?(){},-_$]+\.)+(?:com|net|org|edu))"
  rf"(?:/[^\s\"<>|()]+{_PATH_END})?"
)
_MAIL = r"[a-zA-Z0-9][^\s\"<>|()]*@(?:[^\s\"<>|().]+\.)*[^\s\"<>|().]+"
_FILE = (
  rf"{_ALNUM}+(?:\.{_ALNUM}+)*\."
  r"(?i:bat|bmp|c|class|cgi|cpp|dll|doc|docx|exe|gif|gz|h|htm|html|jar|java"
  r"|jpeg|jpg|mov|mp3|pdf|php|pl|png|ppt|ps|py|sql|tar|txt|wav|x|xml|zip)"
)
_TAG = r"<(?:[!?][A-Za-z-][^>\n]*|/?[A-Za-z][^>\n]*)>"
_SMILEY = r"[<>]?[:;=]['o*-]?[()DPdpO\\{@|\[\]]"

# Abbreviations that can end a sentence, and do before a capital. Some need a
# capital themselves: "ill." and "mass." are none.
_ABBREVIATION = (
  r"(?:(?i:jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec|mon|tues?|wed|thu"
  r"|thurs|fri|ala|ariz|calif|colo|conn|ct|dak|fla|ga|ind|kans?|ky|md|mich"
  r"|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wisc?|wyo|inc|cos?|corp|pty"
  r"|ltd|plc|rt|bancorp|bhd|assn|univ|intl|sys|jr|sr|bros|(?:ed|ph)\.d|blvd"
  r"|rd|esq|etc|sq|tel|est|al|bldg|seq|ext)|A(?i:z|rk)|D(?i:el)|I(?i:ll)"
  r"|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))"
)
# Never the end of a sentence.
_TITLE = (
  r"(?i:mr|mrs|ms|drs?|profs?|sens?|reps?|attys?|lt|col|gen|messrs|govs?|adm"
  r"|rev|maj|sgt|cpl|pvt|capt|ste?|ave|pres|lieut|hon|brig|co?mdr|pfc|spc"
  r"|supts?|det|vs|alex|wm|jos|cie|cf|dept|mt|ft|mme|mlle|mfg|mtg|natl|treas"
  r"|adj|elec)"
)
_BEFORE_NUMBER = r"(?i:nos?|ca|figs?|art|op|pp)"
_ACRONYM = (
  r"(?:[A-Za-z](?:\.[A-Za-z])*|(?i:canada|sino|korean|eu|japan|non-u\.s))"
)
# An acronym ends a sentence only before one of these words.
_SENTENCE_START = (
  r"(?:A(?i:bout|ccording|dditionally|fter|n|s|t|)|B(?i:ut)|E(?i:arlier)"
  r"|H(?i:e|er|ere|owever)|I(?i:f|n|t)|L(?i:ast)|M(?i:any|ore|r\.|s\.)"
  r"|N(?i:ow)|O(?i:nce|ne|ther|ur)|S(?i:he|ince|o|ome|uch)"
  r"|T(?i:hat|he|heir|hen|here|hese|hey|his)|W(?i:e|hen|hile|hat)"
  r"|Y(?i:et|ou))"
)
_ENDS = rf"{_GAP}+(?:{_SENTENCE_START}|{_TAG}){_GAP}"

_BRACKETS = {
  "(": "-LRB-",
  ")": "-RRB-",
  "[": "-LSB-",
  "]": "-RSB-",
  "{": "-LCB-",
  "}": "-RCB-",
}
_FRACTIONS = {
  "\xbc": "1/4",
  "\xbd": "1/2",
  "\xbe": "3/4",
  "\u2153": "1/3",
  "\u2154": "2/3",
}
_QUOTES = {
  "\x91": "`",
  "\x92": "'",
  "\x93": "``",
  "\x94": "''",
  "\u2018": "`",
  "\u2019": "'",
  "\u201b": "'",
  "\u201c": "``",
  "\u201d": "''",
  "\u2039": "`",
  "\u203a": "'",
  "\xab": "``",
  "\xbb": "''",
  '"': "''",
  "&quot;": "''",
  "&apos;": "'",
}
_CURRENCIES = {"\xa3": "#", "\u20ac": "$", "\x80": "$", "\xa2": "cents"}
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">"}

_APOSTROPHES = {"\x92": "'", "\u2019": "'", "&apos;": "'"}

_Form = Callable[[str], str]


def _plain(token: str) -> str:
  """Blanks within become hard ones, soft hyphens go."""
  return token.replace(" ", "\xa0").replace("\xad", "") or "-"


def _replaced(table: Mapping[str, str]) -> _Form:
  def form(token: str) -> str:
    for text, other in table.items():
      token = token.replace(text, other)
    return _plain(token)

  return form


def _with_stop(token: str) -> str:
  return f"{token}."


def _always(form: str) -> _Form:
  return lambda _: form


# (rule, form of its token). A rule with a group takes the group only; what
# follows it must be there, and counts for the longest match.
_RULES: Sequence[tuple[str, _Form]] = (
  # Words, and words that are two.
  (r"(?i:(can)not|(gon|wan)na|(got)ta|(lem|gim)me|('t)(?:is|was))", _plain),
  (rf"({_WORD}){_SUFFIX}", _plain),
  (rf"([A-Za-z\xc0-\u024f]+){_NOT}", _plain),
  (_WORD, _plain),
  # Words with an apostrophe.
  (rf"{_APOSTROPHE}(?i:n){_APOSTROPHE}?|[lLdDjJ]{_APOSTROPHE}", _plain),
  (rf"(?i:dunkin|somethin|ol){_APOSTROPHE}", _plain),
  (rf"{_APOSTROPHE}(?i:em|till?|cause|[2-9]0s)", _plain),
  (rf"[A-HJ-XZn]{_TICK}{_LETTER}{{2,}}|c{_TICK}est", _plain),
  (rf"{_LETTER}+[aeiouyAEIOUY]{_TICK}[aeiouA-Z]{_LETTER}*", _plain),
  (rf"([yY]{_APOSTROPHE}){_LETTER}", _plain),
  (rf"({_APOSTROPHE}\d\d)(?:\s|\Z)", _plain),
  # Addresses and names of files.
  (_TAG, _plain),
  (_URL, _plain),
  (_HOST, _plain),
  (_MAIL, _plain),
  (r"@[A-Za-z_][A-Za-z_0-9]*|#[A-Za-z]+", _plain),
  # What is left of a word.
  (rf"({_SUFFIX})(?:[^A-Za-z]|\Z)", _replaced(_APOSTROPHES)),
  (_NOT, _replaced(_APOSTROPHES)),
  # Numbers.
  (_DATE, _plain),
  (_NUMBER, _plain),
  (_SCRIPT_NUMBER, _plain),
  (_FRACTION, _plain),
  (r"[\xbc-\xbe\u2153\u2154]", _replaced(_FRACTIONS)),
  (_PHONE, _replaced(_BRACKETS)),
  (r"[A-Z]*\$", _plain),
  (r"[\x80\xa2\xa3\u20ac]", _replaced(_CURRENCIES)),
  # Abbreviations. "p.m." before "The" is "p.m." and ".", "A." is "A" and ".".
  (rf"({_ABBREVIATION})\.{_GAP}(?:{_GAP}|{_CAPITAL}|{_TAG})", _with_stop),
  (rf"({_ABBREVIATION}\.)(?:[\s\S]{{2}}|\s?\Z)", _plain),
  (rf"([A-Za-z])\.{_ENDS}", _plain),
  (rf"({_ACRONYM})\.{_ENDS}", _with_stop),
  (rf"{_ACRONYM}\.|{_TITLE}\.", _plain),
  (rf"({_BEFORE_NUMBER}\.){_GAP}?\d", _plain),
  (rf"((?:{_WORD}|{_COMPOUND}|{_COMPANY})\.)[,;:\u3001]", _plain),
  (rf"({_FILE})(?:{_GAP}|[.?!,]|\Z)", _plain),
  # Compounds.
  (_COMPOUND, _plain),
  (_SLASHED, _plain),
  (r"[A-Za-z0-9][A-Za-z0-9.,]*(?:-[A-Za-z0-9]+)+", _plain),
  (_COMPANY, _replaced(_ENTITIES)),
  # Marks.
  (r"(\"|&quot;)[A-Za-z0-9$]", _always("``")),
  (r"(')[A-Za-z][^\s\xa0]", _always("`")),
  (_SUFFIX, _replaced(_APOSTROPHES)),
  (r"\.{3,5}|(?:\.[ \xa0]){2,4}\.|[\x85\u2026]", _always("...")),
  (r"[?!]+|-{5,}|_+|-(?i:[lr][rsc]b)-", _plain),
  (r"-{2,4}|[\x96\x97\u2012-\u2015]", _always("--")),
  (rf"({_SMILEY})(?:[^A-Za-z0-9]|\Z)", _replaced(_BRACKETS)),
  (r"[-^x=~<>']_[-^x=~<>']", _plain),
  (
    r"''|``|[\x91-\x94\u2018\u2019\u201b-\u201d\u2039\u203a\xab\xbb\"]"
    r"|&(?:quot|apos);",
    _replaced(_QUOTES),
  ),
  (r"&(?:amp|lt|gt);", _replaced(_ENTITIES)),
  (r"&#\d+;|\*\*|##|@@|[CcFf]#|[Cc]\+\+", _plain),
  (r"[()\[\]{}]", _replaced(_BRACKETS)),
)
_COMPILED = [(re.compile(rule), form) for rule, form in _RULES]
# No rule looks further. Many read on to the next blank, so in a long text
# without one all tokens together would take a time that grows as its square.
_LONGEST = 1024
# Most tokens of captions, of which no other rule takes more.
_SIMPLE = re.compile(
  r"[A-Za-z]+(?=[,;:!?]?[ \n])|,(?=[ \n])|\.(?=\n| [^.])"
  rf"|(?!(?:{_ABBREVIATION}|{_TITLE}|{_BEFORE_NUMBER}|[A-Za-z])\.)"
  r"[A-Za-z]+(?=\.[ \n])"
)
_TWO_WORDS = frozenset("cannot gonna wanna gotta lemme gimme".split())
_LINE_END = r"\r\n|[\n\r\x0b\x0c\x85\u2028\u2029]"
_SKIPPED = re.compile(rf"(?:{_BLANK}|&nbsp;)+")


def tokenize(captions: Iterable[str]) -> list[str]:
  """The tokens of each caption, with blanks between, without punctuation."""
  return [
    " ".join(token for token in tokens if token not in PUNCTUATION)
    for tokens in all_tokens(captions)
  ]


def count_split_lines(captions: Iterable[str]) -> int:
  """Captions with a line separator that the published scorer keeps.

  It replaces line feeds alone, so its tokenizer returns more lines than there
  are captions, and all later ones are taken for another caption's.
  """
  return sum(
    re.search(_LINE_END, caption.replace("\n", " ")) is not None
    for caption in captions
  )


def all_tokens(captions: Iterable[str]) -> list[list[str]]:
  """The tokens of each caption, punctuation included, in lower case.

  Line ends within a caption are blanks.
  """
  lines = [" ".join(re.split(_LINE_END, caption)) for caption in captions]
  text = "\n".join(lines)
  found, place = [], 0
  for line in lines:
    end = place + len(line)
    found.append(_tokens_of_line(text, place, end))
    place = end + 1
  return found


def _tokens_of_line(text: str, place: int, end: int) -> list[str]:
  tokens = []
  while place < end:
    match = _SIMPLE.match(text, place, place + _LONGEST)
    if match and (token := match[0].lower()) not in _TWO_WORDS:
      tokens.append(token)
      place = match.end()
    elif match := _SKIPPED.match(text, place):
      place = match.end()
    else:
      token, place = _token(text, place)
      if token:
        tokens.append(token.lower())
  return tokens


def _token(text: str, place: int) -> tuple[str, int]:
  """(the token at a place, where it ends); "" for what is left out."""
  longest, length = None, 0
  for rule, form in _COMPILED:
    match = rule.match(text, place, place + _LONGEST)
    if match and match.end() - place > length:
      longest, length = (match, form), match.end() - place
  if longest is None:
    character = text[place]
    return "" if _is_left_out(character) else character, place + 1
  match, form = longest
  taken = next((group for group in match.groups() if group), match[0])
  return form(taken), place + len(taken)


def _is_left_out(character: str) -> bool:
  """Whether the published tokenizer drops it: emoji, controls, formats."""
  return character > "\uffff" or unicodedata.category(character)[0] == "C"
