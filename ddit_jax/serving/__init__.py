"""`ddit serve`: a pipeline behind HTTP, for clients of OpenAI's API.

- `batcher`: a queue whose jobs of one kind run together.
- `engine`: batches of jobs to calls of the pipeline.
- `messages`: JSON bodies to jobs, checked.
- `app`: the routes, limits and errors, an ASGI application.
- `listening`: it at an address, until a signal ends it.
"""
