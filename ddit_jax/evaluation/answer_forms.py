"""The forms in which published scorers compare two answers.

Each scorer has a normaliser of its own, and their scores must not be mixed:

- `vqa`: vqaEval.py of GT-Vision-Lab/VQA at a013f00.
- `vizwiz`: the API of VizWiz, the same with typographic apostrophes.
- `evalai`: the processor of the EvalAI server, TextVQA and LLaVA.
- `ddit_release`: scripts/vqa.py of the D-DiT release.

Their quirks are kept.
"""

import functools
import re
from collections.abc import Mapping

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
_PERIOD_WITHOUT_DIGIT = re.compile(r"\.(?!\d)")
# The published call passes the flag re.UNICODE (32) as the count.
_MAX_PERIODS = 32
_ARTICLES = frozenset({"a", "an", "the"})
_NUMBERS = {"none": "0"} | {
  word: str(number)
  for number, word in enumerate(
    "zero one two three four five six seven eight nine ten".split()
  )
}
# Words that are also accepted without their apostrophe. Input is lower-cased
# before the look-up, so the published keys with a capital ("Im", "Ive",
# "Id've", "I'dve") can never match and are omitted.
_APOSTROPHE_WORDS = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't
he'd he's how'd how'll how's isn't it'd it'll ma'am mightn't might've mustn't
must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's
there'd there're there's they'd they'll they're they've 'twas wasn't we've
weren't what'll what're what's what've when's where'd where's where've who'd
who'll who's who've why'll why're why's won't would've wouldn't y'all you'd
you'll you're you've
""".split()
_OTHER_CONTRACTIONS = {
  "couldn'tve": "couldn't've",
  "couldnt've": "couldn't've",
  "hadnt've": "hadn't've",
  "hadn'tve": "hadn't've",
  "hed've": "he'd've",
  "he'dve": "he'd've",
  "itd've": "it'd've",
  "it'dve": "it'd've",
  "mightnt've": "mightn't've",
  "mightn'tve": "mightn't've",
  "ow's'at": "'ow's'at",
  "'ow'sat": "'ow's'at",
  "shed've": "she'd've",
  "she'dve": "she'd've",
  "shouldnt've": "shouldn't've",
  "shouldn'tve": "shouldn't've",
  "somebody'd": "somebodyd",
  "somebodyd've": "somebody'd've",
  "somebody'dve": "somebody'd've",
  "someoned've": "someone'd've",
  "someone'dve": "someone'd've",
  "somethingd've": "something'd've",
  "something'dve": "something'd've",
  "thered've": "there'd've",
  "there'dve": "there'd've",
  "theyd've": "they'd've",
  "they'dve": "they'd've",
  "wed've": "we'd've",
  "we'dve": "we'd've",
  "whod've": "who'd've",
  "who'dve": "who'd've",
  "wouldnt've": "wouldn't've",
  "wouldn'tve": "wouldn't've",
  "yall'll": "y'all'll",
  "y'allll": "y'all'll",
  "yall'd've": "y'all'd've",
  "y'alld've": "y'all'd've",
  "y'all'dve": "y'all'd've",
  "youd've": "you'd've",
  "you'dve": "you'd've",
}
_CONTRACTIONS = {
  word.replace("'", ""): word for word in _APOSTROPHE_WORDS
} | _OTHER_CONTRACTIONS
# What the VizWiz API writes with a straight apostrophe; all else is curled.
_STRAIGHT_IN_VIZWIZ = frozenset(
  "ain't aren't can't could've couldn't we've where's who've couldn'tve "
  "hadn'tve".split()
)


def _curled(word: str) -> str:
  return word if word in _STRAIGHT_IN_VIZWIZ else word.replace("'", "\u2019")


_VIZWIZ_CONTRACTIONS = {
  _curled(key): _curled(value) for key, value in _CONTRACTIONS.items()
}
# Copied with its spelling: "twelfth" is not mapped.
_ORDINALS = {
  "first": "1st",
  "second": "2nd",
  "third": "3rd",
  "fourth": "4th",
  "fifth": "5th",
  "sixth": "6th",
  "seventh": "7th",
  "eighth": "8th",
  "ninth": "9th",
  "tenth": "10th",
  "eleventh": "11th",
  "twelth": "12th",
}


# People give the same answers again and again.
_remembered = functools.lru_cache(maxsize=2**16)


@_remembered
def vqa(answer: str) -> str:
  """The form of the official VQA v2 scorer.

  In order: punctuation, full stops, lower case, number words to digits,
  articles dropped, apostrophes restored, single blanks.
  """
  return _by_words(without_marks(answer), _NUMBERS, _CONTRACTIONS)


@_remembered
def vizwiz(answer: str) -> str:
  """The form of the VizWiz API: its apostrophes are U+2019 but for a few.

  So "dont" becomes "don\u2019t", which does not match an annotator's "don't".
  """
  return _by_words(without_marks(answer), _NUMBERS, _VIZWIZ_CONTRACTIONS)


@_remembered
def evalai(answer: str) -> str:
  """The form of the EvalAI server, which TextVQA and LLaVA use.

  Commas and question marks go first, so "1,000/day" becomes "1000 day" and
  "red,white" "redwhite"; "it's" becomes "it 's".
  """
  text = answer.lower().replace(",", "").replace("?", "").replace("'s", " 's")
  return _by_words(without_marks(text), _NUMBERS, _CONTRACTIONS)


@_remembered
def ddit_release(answer: str) -> str:
  """The form of the D-DiT release: VQA's, and ordinals become digits."""
  words = _NUMBERS | _ORDINALS
  return _by_words(without_marks(answer), words, _CONTRACTIONS)


def without_marks(answer: str) -> str:
  """An answer on one line after the punctuation and full-stop steps."""
  return _without_periods(_without_punctuation(single_line(answer)))


def single_line(answer: str) -> str:
  """An answer as it is compared raw: line ends and tabs are blanks."""
  return answer.replace("\n", " ").replace("\t", " ").strip()


def _by_words(
  text: str, numbers: Mapping[str, str], contractions: Mapping[str, str]
) -> str:
  words = [numbers.get(word, word) for word in text.lower().split()]
  kept = [word for word in words if word not in _ARTICLES]
  return " ".join(contractions.get(word, word) for word in kept)


def _without_punctuation(text: str) -> str:
  """Deletes or blanks each mark; every test uses the original text."""
  has_grouped_digits = _DIGIT_COMMA_DIGIT.search(text) is not None
  result = text
  for mark in _PUNCTUATION:
    touches_blank = f"{mark} " in text or f" {mark}" in text
    is_deleted = touches_blank or has_grouped_digits
    result = result.replace(mark, "" if is_deleted else " ")
  return result


def _without_periods(text: str) -> str:
  """Deletes up to 32 full stops that no digit follows ("5." but not ".5")."""
  return _PERIOD_WITHOUT_DIGIT.sub("", text, count=_MAX_PERIODS)
