//! The page: its sections, and one style for light and dark screens, paper and phones.

use super::comparison::{MethodScore, baseline_label};
use super::gather::ReportData;
use super::markup::escape;
use super::{learned_section, results, sections, setup_section};
use raisin_contract::PipelineSetup;

/// What a page says about itself.
pub struct PageHeading<'a> {
    /// `None`: the name of the pipeline.
    pub title: Option<&'a str>,
    pub setup: Option<&'a PipelineSetup>,
}

/// The whole HTML document. `rows` is the comparison with `baseline`.
pub fn page(heading: PageHeading<'_>, gathered: &ReportData, rows: &[MethodScore], baseline: &str) -> String {
    let PageHeading { title, setup } = heading;
    let title = title.or(setup.map(|setup| setup.pipeline.as_str())).unwrap_or("Instruction selection");
    let labels = gathered.labels();
    let reference = baseline_label(&labels, baseline);
    let parts = [
        setup.map(|setup| setup_section::origin(title, setup, gathered)).unwrap_or_default(),
        results::results(rows, &labels, reference, baseline),
        sections::learning(gathered, &labels),
        sections::selected(gathered, &labels),
        sections::training(gathered),
        learned_section::learned(gathered),
        sections::samples(gathered, &labels),
        sections::costs(gathered, &labels),
        sections::notes(gathered, !rows.is_empty()),
        setup.map(setup_section::settings).unwrap_or_default(),
    ];
    let title = escape(title);
    let body = parts.concat();
    format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n\
         <body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

/// The style of the report, which the pages of `raisin ui` share.
pub const STYLE: &str = "
:root{--paper:#fff;--ink:#1a1c20;--quiet:#5b616b;--rule:#dfe2e7;--panel:#f6f7f9;
--c0:#0072b2;--c1:#d55e00;--c2:#009e73;--c3:#b8568f;--c4:#c98a00;--c5:#3a9fd8;--c6:#6a5acd;--c7:#6b7280}
@media screen and (prefers-color-scheme:dark){:root{--paper:#14161a;--ink:#e7e9ec;--quiet:#a0a7b2;--rule:#30343b;--panel:#1c1f25;
--c0:#4aa8e8;--c1:#ff8a3d;--c2:#2ec49a;--c3:#e58cc0;--c4:#f0c043;--c5:#8fd3ff;--c6:#a99bff;--c7:#9aa3b0}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:1160px;margin:0 auto;padding:1.2rem 1rem 4rem}
h1{font-size:1.7rem;line-height:1.2;margin:.4rem 0 1rem}
h2{font-size:1.25rem;margin:2.4rem 0 .4rem;padding-top:.8rem;border-top:1px solid var(--rule)}
h3{font-size:1rem;margin:1.2rem 0 .3rem}
p{max-width:70ch;margin:.4rem 0 .8rem}
.origin{color:var(--quiet);max-width:none}
code{font:.95em ui-monospace,Menlo,Consolas,monospace}
.quiet{color:var(--quiet);font-size:.9rem}
.finding{font-size:1.05rem;background:var(--panel);border-left:4px solid var(--c0);padding:.6rem .9rem;border-radius:0 6px 6px 0}
.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,400px),1fr));gap:1.1rem 1.4rem;margin:.8rem 0}
figure{margin:0;min-width:0}
figcaption{font-weight:600;font-size:.95rem;margin-bottom:.15rem}
figure>svg{width:100%;max-width:640px;height:auto;display:block}
svg text{font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif;fill:var(--quiet)}
svg text.axis{fill:var(--ink)}
.grid{stroke:var(--rule);stroke-width:1}
.tick{stroke:var(--quiet);stroke-width:1}
.reference{stroke:var(--quiet);stroke-width:1.5;stroke-dasharray:4 4}
polyline,path,.sample line{fill:none;stroke-width:2.2;stroke-linejoin:round}
polyline.faint{stroke-width:1;opacity:.38;stroke-dasharray:none}
.band{opacity:.17}
circle.single{opacity:.45}
circle.hit{fill-opacity:0}circle.hit:hover{fill-opacity:1}
th[title]{cursor:help}
.l0{stroke:var(--c0)}.l1{stroke:var(--c1)}.l2{stroke:var(--c2)}.l3{stroke:var(--c3)}
.l4{stroke:var(--c4)}.l5{stroke:var(--c5)}.l6{stroke:var(--c6)}.l7{stroke:var(--c7)}
.f0{fill:var(--c0)}.f1{fill:var(--c1)}.f2{fill:var(--c2)}.f3{fill:var(--c3)}
.f4{fill:var(--c4)}.f5{fill:var(--c5)}.f6{fill:var(--c6)}.f7{fill:var(--c7)}
.d1{stroke-dasharray:7 3}.d2{stroke-dasharray:2 3}.d3{stroke-dasharray:9 3 2 3}.solid{stroke-dasharray:none}
.legend{list-style:none;display:flex;flex-wrap:wrap;gap:.15rem .9rem;margin:.3rem 0 0;padding:0;font-size:.85rem;color:var(--quiet)}
.legend li{display:flex;align-items:center;gap:.35rem}
.sample{width:28px;height:10px;flex:none}.sample.box{width:12px;height:12px}
.scroll{overflow-x:auto;margin:.6rem 0}
table{border-collapse:collapse;font-size:.9rem;min-width:100%}
th,td{padding:.32rem .5rem;text-align:left;border-bottom:1px solid var(--rule);vertical-align:top}
th{font-weight:600;color:var(--quiet);border-bottom:2px solid var(--rule)}
.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
.r,th.n{white-space:normal}
td:first-child{white-space:nowrap}
td.text{min-width:14rem;overflow-wrap:anywhere}
tr.best td:first-child{font-weight:700}
.good{color:var(--c2);font-weight:600}.bad{color:var(--c1);font-weight:600}
.dot{display:inline-block;width:.7em;height:.7em;border-radius:50%;margin-right:.45em}
details{margin:.5rem 0}summary{cursor:pointer;font-weight:600}
@media print{body{font-size:10pt}main{max-width:none;padding:0}.scroll{overflow:visible}
details{display:block}details::details-content{content-visibility:visible;display:block}
figure,tr,.finding{break-inside:avoid}h2,h3,h2+p,summary,figcaption{break-after:avoid}
svg,.dot{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
";
