"""One run on disk, data in and data out.

- `directory`: created, or reopened with the same configuration.
- `finish`: the end of a search, with `members` (the points of the front, asked about once more).
- `front`, `front_files`: the front as a table, and the files of it.
- `measured`: where its times are from; `timing`: a finished run timed on another device.
- `offered`, `recommended`: which points of it a person is shown, and which one is told to take.
- `samples`: what they write.
- `finished`: a run after its search; `picks` are the words by which a person names one of its points.
- `scoring`, `scores`: task scores asked for, and as columns of the front.
- `commands`: what a person may want to run next.
- `versions`: of the packages that numbers depend on.
"""
