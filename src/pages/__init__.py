"""HTML pages that need nothing else: the shell, its styles and scripts, and what all figures share.

| module | what it is |
| --- | --- |
| look | colours for light and dark, type, axes |
| shell | the page around sections |
| markdown | other people's text within Markdown |
"""
