"""How `--help` shows the commands: in groups, each with one example to copy."""

from __future__ import annotations

GROUPS = {
    "Learn": {
        "fit": "patchbank fit good/ -o part.patchbank",
        "audit": "patchbank audit good/ -o audit.html",
        "tune": "patchbank tune good/ --budget-ms 100 -o options.toml",
    },
    "Inspect": {
        "predict": "patchbank predict part.patchbank new/ --out results/",
        "explain": "patchbank explain part.patchbank new/007.png -o why.html",
    },
    "Serve": {
        "run": "patchbank run line.toml",
        "serve": "patchbank serve part.patchbank",
        "backup": "patchbank backup --data patchbank-data -o backup.tar",
        "restore": "patchbank restore backup.tar --data restored",
        "users": "",
        "tokens": "",
        "audit-log": "",
    },
    "Measure": {
        "evaluate": "patchbank evaluate part.patchbank dataset/ --report evaluation.html",
        "threshold": "patchbank threshold part.patchbank --max-false-alarms 0.05 -o part.patchbank",
        "drift": "patchbank drift part.patchbank results.jsonl --fail-on-drift",
        "benchmark": "patchbank benchmark datasets/",
    },
    "Keep a model": {
        "info": "patchbank info part.patchbank",
        "update": "patchbank update part.patchbank --add false-alarms/ --note 'new supplier'",
        "history": "patchbank history part.patchbank",
        "rollback": "patchbank rollback part.patchbank --to 1",
        "diff": "patchbank diff part.patchbank",
        "export": "patchbank export part.patchbank -o part-onnx/",
    },
    "Begin": {
        "demo": "patchbank demo --out patchbank-demo",
        "backbones": "",
    },
}
# Commands of groups, such as `patchbank backbones list`.
OF_GROUPS = {
    "backbones list": "patchbank backbones list",
    "backbones show": "patchbank backbones show efficientnet_lite2",
    "backbones fetch": "patchbank backbones fetch wide_resnet50_2",
    "backbones export": "patchbank backbones export wide_resnet50_2 -o network.onnx",
    "users add": "patchbank users add anna --role admin --data patchbank-data",
    "users list": "patchbank users list --data patchbank-data",
    "users role": "patchbank users role anna engineer",
    "users password": "patchbank users password anna --password-stdin",
    "users disable": "patchbank users disable anna --reason 'left the company'",
    "users enable": "patchbank users enable anna",
    "tokens add": "patchbank tokens add line-3 --scope inspect",
    "tokens list": "patchbank tokens list",
    "tokens revoke": "patchbank tokens revoke line-3",
    "audit-log verify": "patchbank audit-log verify --data patchbank-data",
    "audit-log list": "patchbank audit-log list --object user/anna",
    "audit-log export": "patchbank audit-log export --json",
}


def panel_of(name: str) -> str | None:
    """The group that a command stands in; None: in none."""
    return next((group for group, commands in GROUPS.items() if name in commands), None)


def example_of(name: str) -> str:
    """A command line to copy; empty for a name that has none."""
    return next((commands[name] for commands in (*GROUPS.values(), OF_GROUPS) if name in commands), "")
