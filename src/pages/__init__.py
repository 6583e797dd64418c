"""HTML pages that need no other file and no network.

| module | what it is |
| --- | --- |
| document | sections of words, figures and tables, and the page that shows them (page.html, page.css, page.js) |
| tables.js | tables that sort by a heading and are saved as CSV, in the browser |
| what_if.js | sliders, and what a Gaussian process over answers expects of them, computed in the browser |
| figures | Plotly figures in one style, with colours for light and dark (palette.json) |
| text | numbers as words |
| markdown | other people's text within Markdown |
"""
