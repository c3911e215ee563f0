"""How the page of a run looks: light and dark, on a screen and on paper."""

# ruff: noqa: E501 - a style sheet

STYLE = """
:root{--bg:#fff;--card:#f6f7f9;--ink:#1c2230;--soft:#667085;--rule:#e3e6ec;--a:#2b6cdf;--b:#8b5cf6;--c:#d9487d;--ok:#188a4c;
--bad:#c92a2a;--warn:#b7791f;--quiet:#98a2b3;color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--bg:#12151c;--card:#1b202b;--ink:#e7eaf0;--soft:#98a2b3;--rule:#2c3341;--a:#6ea2ff;
--b:#b197fc;--c:#ff7fac;--ok:#4cc38a;--bad:#ff6b6b;--warn:#f5b84c;--quiet:#667085}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,sans-serif}
main{max-width:1180px;margin:0 auto;padding:28px 20px 60px}h1{font-size:26px;margin:0}h2{font-size:17px;margin:34px 0 10px}
p{margin:6px 0}.soft,.none{color:var(--soft)}.head{display:flex;gap:16px;align-items:center;flex-wrap:wrap}
.badge{padding:5px 16px;border-radius:99px;color:#fff;font-weight:700;letter-spacing:.03em}
.badge.pass{background:#188a4c}.badge.fail{background:#c92a2a}.badge.invalid{background:#b7791f}
ul{margin:8px 0;padding-left:20px}.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(240px,1fr));gap:12px;margin-top:20px}
.card{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 14px}
.card b{display:block;font-size:23px;font-variant-numeric:tabular-nums}.card span{color:var(--soft);font-size:13px}
.grid2{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,480px),1fr));gap:16px}
figure{margin:0;background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px 12px 6px}
figcaption{font-weight:600;font-size:14px;display:flex;justify-content:space-between;gap:10px;flex-wrap:wrap}
.legend{font-weight:400;color:var(--soft);font-size:12.5px;display:flex;gap:12px}.key{display:inline-block;width:10px;height:10px;
border-radius:3px;margin-right:5px}svg{width:100%;height:auto;display:block}svg text{font:11px system-ui,sans-serif}
.axis{fill:var(--soft)}line.grid{stroke:var(--rule)}line.limit{stroke:var(--bad);stroke-dasharray:5 4}text.limit{fill:var(--bad);paint-order:stroke;stroke:var(--card);stroke-width:3px}
.band{fill:var(--quiet);opacity:.06}.band.odd{opacity:.14}.line{fill:none;stroke-width:1.8;stroke-linejoin:round}
.line.a{stroke:var(--a)}.line.b{stroke:var(--b)}.line.c{stroke:var(--c)}.line.ok{stroke:var(--ok)}.line.bad{stroke:var(--bad)}
.line.quiet{stroke:var(--quiet)}.bar.a,.dot.a{fill:var(--a)}.bar.b,.dot.b{fill:var(--b)}.bar.c,.dot.c{fill:var(--c)}.dot.ok{fill:var(--ok)}.dot.bad{fill:var(--bad)}.dot.quiet{fill:var(--quiet)}
.dot{opacity:.65}.key.a{background:var(--a)}.key.b{background:var(--b)}.key.c{background:var(--c)}.key.ok{background:var(--ok)}
.key.bad{background:var(--bad)}.key.quiet{background:var(--quiet)}.scroll{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:14px}
th{color:var(--soft);font-weight:500;text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule);vertical-align:bottom}
td{text-align:right;padding:5px 10px;border-bottom:1px solid var(--rule);white-space:nowrap}th:first-child,td:first-child,
td.text,th.text{text-align:left}td.text{white-space:normal}.good{color:var(--ok)}.wrong{color:var(--bad)}.odd{color:var(--warn)}
details{margin-top:10px}pre{background:var(--card);border:1px solid var(--rule);border-radius:10px;padding:12px;overflow-x:auto}
"""
