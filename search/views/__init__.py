"""What people see of a run.

`watch` (live, while it goes on), `report` (in Markdown), `page` (front.html), `dashboard` (a live page).
`pages` writes report and page of a finished run; `scoring` asks for task scores while a person watches, `timing` for
end-to-end times. All share `text` (numbers, times and names as people read them) and `front_rows` (the front as rows of
text).
"""
