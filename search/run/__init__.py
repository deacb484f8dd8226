"""One run on disk, data in and data out: `directory`, `commands`, `finish`, `scoring`, `finished` and `picks`.

`front` is the front as a table, `members` what is known of its points while a run ends, `front_files` what both ends
write, `scores` the task scores in the archive, `versions` those of the packages.
"""
