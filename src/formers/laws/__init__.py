"""The laws that every model obeys, tried on any module: `certify`.

    report = formers.certify(model)
    report.ok, report.laws["causal by perturbation"].violation

A law is a function in one of the files of this package, registered with its claim and what it needs.
"""

from formers.laws.certification import Case, certify
from formers.laws.law import LAWS, Finding, Law
from formers.laws.report import Report, Verdict, show, table

__all__ = ["LAWS", "Case", "Finding", "Law", "Report", "Verdict", "certify", "show", "table"]
