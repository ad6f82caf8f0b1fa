"""One self-contained report.html that opens offline, from plain data.

page.py     write_report: fills the template
charts.py   training curves as inline SVG, drawn by matplotlib
"""
