"""The server over HTTP, as OpenAI's clients ask it.

- `app`: the routes; `schema`: what they take; `prompts`: from texts and chats to tokens; `asking`: how an answer comes
  from the scheduler.
- `answers`: what they give, in OpenAI's form; `errors` in that form too.
- `guard`: who may ask, and how much; `metrics`, in Prometheus' form; `log`, a line of JSON for each request.
- `server`: a socket, uvicorn, and the end.
"""
