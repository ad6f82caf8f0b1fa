"""`ddit demo`: a pipeline behind a page for a browser.

- `watching`: a running job's news, for one reader.
- `drawing`: what the tab Draw asks for, and images as they form.
- `writing`: what the tab Describe and ask asks for, and texts as they form.
- `token_text`: texts as HTML, each token in the colour of its probability.
- `run_view`: what the tab Train shows of a run.
- `desk`: where the tabs hand in their jobs.
- `draw_tab`: the tab Draw.
- `write_tab`: the tab Describe and ask.
- `page`: the whole page, in Gradio.
- `app`: the page and its queue behind HTTP.
"""
