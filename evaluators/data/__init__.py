"""Text: read a document at a time, split into parts that share none of it, and streamed for longer training.

- `places`: what the settings say of where text is.
- `decoding`: the characters of a file, of which nothing may be no text.
- `rows`: the rows of JSON lines, tables and Parquet.
- `chats`: chats as the tokenizer's template makes text of them.
- `shards`: the documents of a file or of a part of a hub data set.
- `sources`: the sources of a text, and a run's own share of each.
- `splits`: that share in tokens, its parts, and windows drawn evenly over sources.
- `cutting`: windows cut into shorter texts for training.
- `labels`: labels of held-out texts and words; `masking`: windows with hidden words; `images`: images in place of text,
  and `image_sources`: where these are.
- `reading`: text or images, by what a model reads.
- `stream`: windows without an end, of text that need not fit in memory.
"""
