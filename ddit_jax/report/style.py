"""The report's CSS: light and dark, from a phone to a wide screen."""

_COLOURS = """
:root{
  --paper:#f7f7f5; --card:#fff; --ink:#1b1d22; --muted:#666b75;
  --line:#e4e4e0; --soft:#efefec; --accent:#2f5bd7;
  --image:#2563eb; --text:#c2410c; --total:#4b5563; --other:#0f766e;
  --good:#15803d; --good-soft:#e3f4e8; --bad:#b42318; --bad-soft:#fdeae7;
  --new:#fde9c8; --new-ink:#7a3e00; --shadow:0 1px 2px #0000000d;
}
@media (prefers-color-scheme:dark){:root{
  --paper:#131417; --card:#1c1e22; --ink:#e9eaec; --muted:#9a9fa9;
  --line:#2e3137; --soft:#26292e; --accent:#8fb0ff;
  --image:#7aa7ff; --text:#ff9d66; --total:#b4bac4; --other:#5fcfc0;
  --good:#6fd08c; --good-soft:#173021; --bad:#ff8f80; --bad-soft:#3a1c19;
  --new:#4a3512; --new-ink:#ffd591; --shadow:none;
}}
"""

_FRAME = """
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
body{margin:0;background:var(--paper);color:var(--ink);
  font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;
  font-variant-numeric:tabular-nums}
header,main,footer{max-width:1080px;margin:0 auto;padding:0 20px}
header{padding-top:56px}
h1{font-size:clamp(1.8rem,5vw,2.7rem);line-height:1.12;margin:0 0 14px;
  letter-spacing:-.022em;text-wrap:balance}
header p{max-width:68ch;margin:0 0 10px;font-size:1.06rem}
h2{font-size:1.45rem;letter-spacing:-.012em;margin:0 0 4px;
  scroll-margin-top:60px}
h3{font-size:.95rem;margin:0 0 6px}
section{padding:44px 0 0;scroll-margin-top:44px}
.lead{color:var(--muted);margin:0 0 18px;max-width:68ch}
.muted,small,.note{color:var(--muted)}
small{font-size:.82rem}
nav{position:sticky;top:0;z-index:1;margin-top:30px;padding:0 20px;
  background:var(--paper);border-block:1px solid var(--line);
  display:flex;gap:22px;overflow-x:auto;white-space:nowrap;
  scrollbar-width:none}
nav::-webkit-scrollbar{display:none}
nav a{color:var(--muted);text-decoration:none;font-size:.92rem;
  padding:11px 0}
nav a:hover,nav a:focus-visible{color:var(--ink)}
@media (min-width:1080px){
  nav{padding-inline:calc((100vw - 1040px)/2)}}
footer{color:var(--muted);font-size:.88rem;padding-block:56px 40px}
.card{background:var(--card);border:1px solid var(--line);
  border-radius:12px;box-shadow:var(--shadow)}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));
  gap:1px;margin:26px 0 0;background:var(--line);border:1px solid var(--line);
  border-radius:12px;overflow:hidden}
.tiles div{background:var(--card);padding:14px 18px}
.tiles dt{color:var(--muted);font-size:.86rem}
.tiles dd{margin:0;font-size:1.5rem;font-weight:620;letter-spacing:-.015em}
details{margin-top:14px}
summary{cursor:pointer;color:var(--accent);padding:6px 0}
"""

_TABLES = """
table{border-collapse:collapse;width:100%}
th,td{text-align:left;vertical-align:top;padding:9px 12px 9px 0;
  border-bottom:1px solid var(--line);font-weight:400}
thead th{color:var(--muted);font-size:.84rem;vertical-align:bottom}
.metrics small{display:block}
.metrics tbody th{font-weight:560;max-width:20rem;overflow-wrap:anywhere;
  padding-right:16px}
.metrics tbody th small{font-weight:400}
.metrics td{white-space:nowrap}
.metrics td[data-label],.metrics th.end{text-align:right;
  padding:9px 0 9px 14px}
.metrics .wide{width:38%;min-width:230px}
.metrics td.wide{padding-top:15px}
.legend{display:flex;flex-wrap:wrap;align-items:center;gap:4px 6px}
.legend .key:not(:first-child){margin-left:8px}
.key{display:inline-block;width:12px;height:12px;border-radius:3px}
.key.fill{background:var(--accent);opacity:.35}
.key.span{height:4px;width:16px;border-radius:2px;background:var(--accent)}
.key.base,.key.ceil{width:0;height:14px;border-radius:0}
.bar{position:relative;height:14px;background:var(--soft);border-radius:4px}
.bar i{position:absolute;display:block}
.bar .fill{inset-block:0;background:var(--accent);opacity:.35;
  border-radius:4px}
.bar .span{top:5px;height:4px;min-width:4px;background:var(--accent);
  border-radius:2px}
.bar .base,.bar .ceil{inset-block:-4px;margin-left:-1px}
.base{border-left:2px dashed var(--muted)}
.ceil{border-left:2px solid var(--ink)}
.phases{display:flex;gap:2px;height:22px;border-radius:6px;overflow:hidden;
  margin:14px 0 8px}
.phases i{min-width:2px}
.plain{max-width:520px}
.plain td{text-align:right}
.plain .key{margin-right:9px}
.plain tfoot th,.plain tfoot td{border:0;font-weight:600}
.phase0{background:var(--image)}.phase1{background:var(--text)}
.phase2{background:var(--other)}.phase3{background:#a855c7}
.phase4{background:#b78a10}.phase5{background:var(--total)}
.groups{columns:2;column-gap:40px;margin-top:8px}
.group{break-inside:avoid;margin-bottom:22px}
.settings{font-size:.88rem}
.settings th,.settings td{padding-block:4px}
.settings th{color:var(--muted);width:45%}
.settings td{overflow-wrap:anywhere;
  font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,monospace;
  font-size:.94em}
"""

_CHARTS = """
.charts{display:grid;gap:16px;
  grid-template-columns:repeat(auto-fit,minmax(min(100%,430px),1fr))}
figure{margin:0;padding:14px 14px 8px}
figcaption{display:flex;justify-content:space-between;gap:12px;
  padding:0 4px 8px}
.ends{color:var(--muted);font-size:.9rem}
.note{font-size:.82rem;margin:2px 4px 6px}
.chart{display:block;width:100%;height:auto;overflow:visible}
.chart text{fill:var(--muted);font-size:12px}
.grid{stroke:var(--line)}
.axis{stroke:var(--muted)}
polyline{fill:none;stroke-linejoin:round;stroke-linecap:round}
.raw{stroke-width:1;opacity:.28}
.mean{stroke-width:2.2}
.image{stroke:var(--image)}.text{stroke:var(--text)}
.total{stroke:var(--total)}.other{stroke:var(--other)}
"""

_SHEETS = """
.pixels{display:block;width:100%;height:auto;image-rendering:pixelated;
  background:var(--soft)}
.sheet{list-style:none;margin:0;padding:0;display:grid;gap:16px;
  grid-template-columns:repeat(auto-fill,minmax(190px,1fr))}
.drawing{overflow:hidden;display:flex;flex-direction:column}
.drawing p{margin:0;padding:10px 14px 0;line-height:1.4;font-size:.95rem}
.drawing .verdict{margin-top:auto;padding-bottom:12px;font-size:.86rem}
.mark{display:inline-grid;place-items:center;width:20px;height:20px;
  border-radius:50%;font-size:.8rem;font-weight:700;background:var(--soft);
  color:var(--muted);flex:none}
.mark.good{background:var(--good-soft);color:var(--good)}
.mark.bad{background:var(--bad-soft);color:var(--bad)}
.verdict{display:flex;gap:8px;align-items:flex-start;color:var(--muted)}
.verdict.bad{color:var(--bad)}.verdict.good{color:var(--good)}
.tally{display:flex;flex-wrap:wrap;align-items:center;gap:4px 8px;
  margin:0 0 14px}
.meter{flex:0 1 180px;height:6px;border-radius:3px;background:var(--soft);
  overflow:hidden;margin-left:6px;min-width:80px}
.meter i{display:block;height:100%;background:var(--good)}
.readings{grid-template-columns:repeat(auto-fill,minmax(min(100%,440px),1fr))}
.reading{display:grid;grid-template:auto 1fr/150px 1fr;gap:0 16px;
  padding:14px;align-items:start}
.reading .pixels{grid-row:1/3}
.reading .pixels{border-radius:6px}
dl{margin:0}
.reading dt{color:var(--muted);font-size:.8rem}
.reading dd{margin:0 0 8px;line-height:1.4}
.answers{font-size:.9rem}
.answers td{padding:6px 10px 6px 0}
.answers tr:last-child td{border:0;padding-bottom:0}
.answers .answer{white-space:nowrap}
.answers td:last-child{width:20px;padding-right:0}
.unmasking{display:grid;grid-template-columns:220px 1fr;gap:26px;
  padding:18px}
.given .pixels{border-radius:8px}
.given p{margin:10px 0 0;color:var(--muted);font-size:.92rem}
.times{list-style:none;margin:0;padding:0}
.times li{display:grid;grid-template-columns:74px 1fr;gap:10px;
  padding:7px 0;border-bottom:1px solid var(--line)}
.times li:last-child{border:0}
.times b{font-weight:500;color:var(--muted);font-size:.88rem;
  line-height:1.75}
.tokens{line-height:1.75}
.tokens .new{background:var(--new);color:var(--new-ink);border-radius:4px;
  padding:1px 4px;margin:0 -3px;font-weight:560}
.hidden{display:inline-block;width:1.7em;height:.72em;border-radius:3px;
  background:var(--line)}
"""

_NARROW = """
@media (max-width:720px){
  header{padding-top:34px}
  section{padding-top:34px}
  .groups{columns:1}
  .sheet{grid-template-columns:repeat(2,1fr);gap:12px}
  .sheet.readings{grid-template-columns:1fr}
  .reading{grid-template:auto auto/104px 1fr;gap:6px 14px}
  .reading .pixels{grid-row:1}
  .answers{grid-column:1/-1}
  .unmasking{grid-template-columns:1fr;gap:12px}
  .given{display:grid;grid-template-columns:104px 1fr;gap:14px}
  .given p{margin:0}
  .times li{grid-template-columns:1fr;gap:0}
  .metrics thead th:not(.wide){display:none}
  .metrics thead th.wide{display:block;width:auto;padding-bottom:10px}
  .metrics tbody tr{display:grid;grid-template-columns:repeat(3,1fr);
    padding:14px 0;border-bottom:1px solid var(--line);align-items:start}
  .metrics tbody th,.metrics tbody td{border:0;padding:0}
  .metrics tbody th{grid-column:1/3}
  .metrics .value{text-align:right}
  .metrics td.wide{grid-column:1/-1;width:auto;padding:12px 0}
  .metrics td[data-label]::before{content:attr(data-label) " ";
    color:var(--muted);font-size:.84rem}
  .metrics td[data-label]{font-size:.9rem;padding:0;text-align:center}
  .metrics .wide+td[data-label]{text-align:left}
  .metrics td[data-label]:last-child{text-align:right}
  .chart text{font-size:14px}
  .meter{margin-left:0}
}
@media print{nav{display:none}.card{break-inside:avoid;box-shadow:none}}
"""

CSS = _COLOURS + _FRAME + _TABLES + _CHARTS + _SHEETS + _NARROW
