"""The front as one offline page: `plot` (its data and HTML), `columns` (what it says of each), and its own files.

`over_dense` has what people compare with the dense model, and the axes.

`front.html` and `front.css`; scripts in the order of their use: `numbers.js`, `model.js` (the data as points),
`picture.js` (layers), `plot.js`, `panel.js` (the chosen point), `lists.js` (what there is to choose from), `front.js`
(the user's choices). `live.js` and `live.css` are the dashboard's additions.
"""
