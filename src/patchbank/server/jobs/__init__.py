"""Work that takes long: fits, updates, audits, the gate. The service starts one child process at a time, at low
priority, and is the only one that writes to the database.

    supervisor.py   takes jobs, starts the child, writes its progress, ends it when it must
    process.py      the child, as the service sees it
    kinds.py        what each kind of job needs before, and what becomes of its result
    folder.py       what passes between the two by files
    child.py        the child: `python -m patchbank.server.jobs.child FOLDER`
    work.py         what it does, for each kind
    gate.py         what a new version finds and misses of what people have labelled

A job that was interrupted goes on where it stopped: its folder holds the state of its fit.
"""
