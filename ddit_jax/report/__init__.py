"""One self-contained report.html that opens offline, from plain data.

page.py    write_report: checks the parts and puts them on one page
style.py   the page's CSS, light and dark, wide and narrow
charts.py  line charts as inline SVG
tables.py  metrics with bars, seconds of each phase, settings
sheets.py  drawings, readings and the unmasking of one caption
markup.py  escaping, numbers, and images as embedded PNG
"""
