"""The front as one offline page: `plot` (its data and HTML), `columns` (what it says of each), and its own files.

`front.html` and `front.css`; scripts in the order of their use: `numbers.js`, `model.js` (the data as points),
`picture.js` (layers), `plot.js`, `panel.js` (the chosen point), `front.js` (the user's choices). `live.js` and
`live.css` are the dashboard's additions.
"""
