"""One self-contained report.html that opens offline, from plain data.

- `page`: Report, what a page shows, and write_report: fills the template.
- `charts`: training curves as inline SVG, plotted by matplotlib.
"""
