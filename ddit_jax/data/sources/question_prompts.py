"""The text before an answer, as D-DiT's instruction tuning has it."""

SHORT_ANSWER = "Answer the question using a single word or phrase."
# Added for VizWiz, whose photos often do not show what is asked for.
MAY_BE_UNANSWERABLE = (
  "Reply unanswerable if information is not present in the image."
)


def question_prompt(question: str, instruction: str = "") -> str:
  """ "Q: {question} {instruction} A: ", with its trailing blank.

  Runs of blanks and line ends become one blank: LLaVA puts line ends before
  instructions and options, D-DiT blanks.
  """
  words = " ".join(f"{question} {instruction}".split())
  return f"Q: {words} A: "
