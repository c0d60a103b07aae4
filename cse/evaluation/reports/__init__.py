"""Reports: the table of scores, and how it is shown in a terminal, in Markdown and on a page."""
