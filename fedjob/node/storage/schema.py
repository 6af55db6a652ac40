"""The tables of a node's database."""

SCHEMA_VERSION = 15

SCHEMA = """
CREATE TABLE datasets (
    name TEXT PRIMARY KEY,
    path TEXT NOT NULL,
    reader TEXT NOT NULL,
    tags BLOB NOT NULL,
    options BLOB NOT NULL,
    loading BLOB NOT NULL,
    mock TEXT NOT NULL,
    min_rows INTEGER NOT NULL,
    num_rows INTEGER NOT NULL,
    size_bytes INTEGER NOT NULL,
    columns BLOB NOT NULL,
    version TEXT NOT NULL DEFAULT '',
    max_weight INTEGER NOT NULL DEFAULT 0,
    description TEXT NOT NULL DEFAULT '',
    contacts BLOB NOT NULL,
    added REAL NOT NULL,
    assets BLOB NOT NULL
) STRICT;

CREATE TABLE plans (
    sha256 TEXT PRIMARY KEY,
    text BLOB NOT NULL
) STRICT;

CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    origin TEXT NOT NULL CHECK (origin IN ('request', 'rule')),
    status TEXT NOT NULL CHECK (status IN ('pending', 'granted', 'rejected', 'expired', 'revoked')),
    researcher TEXT NOT NULL,
    key_hex TEXT NOT NULL,
    plan TEXT NOT NULL,
    entry TEXT NOT NULL,
    dataset TEXT NOT NULL,
    version TEXT NOT NULL,
    use TEXT NOT NULL,
    project TEXT NOT NULL,
    question TEXT NOT NULL,
    protocol TEXT NOT NULL,
    asked BLOB NOT NULL,
    limits BLOB NOT NULL,
    approvals BLOB NOT NULL,
    note TEXT NOT NULL DEFAULT '',
    requested REAL NOT NULL,
    decided REAL,
    decided_by TEXT NOT NULL DEFAULT '',
    until REAL NOT NULL DEFAULT 0,
    rule TEXT NOT NULL DEFAULT '',
    rows_spent INTEGER NOT NULL DEFAULT 0,
    announced INTEGER NOT NULL DEFAULT 1,
    noticed INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX grants_by_subject ON grants (researcher, key_hex, plan, entry, dataset, use);

CREATE TABLE uses (
    grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    job TEXT NOT NULL,
    began REAL NOT NULL,
    PRIMARY KEY (grant_id, job)
) STRICT;

CREATE TABLE costs (
    job TEXT NOT NULL,
    grant_id TEXT NOT NULL,
    work TEXT NOT NULL,
    args TEXT NOT NULL,
    passes REAL NOT NULL,
    last_round INTEGER NOT NULL,
    rounds INTEGER NOT NULL,
    tasks INTEGER NOT NULL,
    seconds REAL NOT NULL,
    bytes_in INTEGER NOT NULL,
    bytes_out INTEGER NOT NULL,
    claimed INTEGER NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (job, grant_id, work)
) STRICT;
CREATE INDEX costs_by_work ON costs (work, at);
CREATE INDEX costs_by_grant ON costs (grant_id);
CREATE INDEX costs_by_time ON costs (at);

CREATE TABLE speeds (
    job TEXT NOT NULL,
    work TEXT NOT NULL,
    model TEXT NOT NULL,
    tasks INTEGER NOT NULL,
    examples REAL NOT NULL,
    trained_s REAL NOT NULL,
    fetched INTEGER NOT NULL,
    fetch_s REAL NOT NULL,
    stored INTEGER NOT NULL,
    store_s REAL NOT NULL,
    other_s REAL NOT NULL,
    least_other_s REAL NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (job, work, model)
) STRICT;
CREATE INDEX speeds_by_time ON speeds (at);

CREATE TABLE inferences (
    grant_id TEXT NOT NULL,
    model TEXT NOT NULL,
    made INTEGER NOT NULL,
    PRIMARY KEY (grant_id, model)
) STRICT;

CREATE TABLE task_grants (
    key TEXT PRIMARY KEY,
    grant_id TEXT NOT NULL
) STRICT;

CREATE TABLE researchers (
    researcher TEXT NOT NULL,
    key_hex TEXT NOT NULL,
    org TEXT NOT NULL,
    known REAL NOT NULL,
    known_by TEXT NOT NULL,
    PRIMARY KEY (researcher, key_hex)
) STRICT;

CREATE TABLE project_limits (
    project TEXT PRIMARY KEY,
    limits BLOB NOT NULL
) STRICT;

CREATE TABLE waiting (
    offer TEXT PRIMARY KEY,
    grant_id TEXT NOT NULL REFERENCES grants (id) ON DELETE CASCADE,
    reply_to TEXT NOT NULL,
    job TEXT NOT NULL,
    sender TEXT NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX waiting_by_grant ON waiting (grant_id);

CREATE TABLE audit (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    at REAL NOT NULL,
    kind TEXT NOT NULL,
    subject TEXT NOT NULL,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;

CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    hash TEXT NOT NULL
) STRICT;

CREATE TABLE jobs (
    job TEXT PRIMARY KEY,
    researcher TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    round INTEGER NOT NULL,
    ended INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    changed REAL NOT NULL
) STRICT;

CREATE TABLE tasks (
    key TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    researcher TEXT NOT NULL,
    dataset TEXT NOT NULL,
    round INTEGER NOT NULL,
    step TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    reply_to TEXT NOT NULL,
    message TEXT NOT NULL,
    task_order BLOB NOT NULL,
    seq INTEGER NOT NULL,
    state TEXT NOT NULL,
    worker INTEGER NOT NULL,
    after_stop TEXT NOT NULL,
    ends TEXT NOT NULL,
    deaths INTEGER NOT NULL,
    reason TEXT NOT NULL,
    detail TEXT NOT NULL,
    result BLOB NOT NULL,
    reply TEXT NOT NULL,
    acknowledged INTEGER NOT NULL,
    resources BLOB NOT NULL,
    project TEXT NOT NULL,
    job_name TEXT NOT NULL,
    parent TEXT NOT NULL,
    child TEXT NOT NULL,
    inputs TEXT NOT NULL,
    waits TEXT NOT NULL,
    researcher_key TEXT NOT NULL,
    accepted REAL NOT NULL,
    started REAL,
    ended REAL,
    updated REAL
) STRICT;

CREATE TABLE history (
    seq INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    job TEXT NOT NULL,
    researcher TEXT NOT NULL,
    reply_to TEXT NOT NULL,
    dataset TEXT NOT NULL,
    round INTEGER NOT NULL,
    step TEXT NOT NULL,
    state TEXT NOT NULL,
    worker INTEGER NOT NULL,
    reason TEXT NOT NULL,
    project TEXT NOT NULL,
    job_name TEXT NOT NULL,
    parent TEXT NOT NULL,
    accepted REAL NOT NULL,
    started REAL,
    ended REAL,
    updated REAL,
    released REAL NOT NULL
) STRICT;
CREATE INDEX history_by_key ON history (key);

CREATE TABLE owner_orders (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    verb TEXT NOT NULL CHECK (verb IN ('kill', 'release')),
    task TEXT NOT NULL,
    given REAL NOT NULL
) STRICT;

CREATE TABLE released (
    task TEXT PRIMARY KEY,
    job TEXT NOT NULL,
    researcher TEXT NOT NULL,
    round INTEGER NOT NULL,
    step TEXT NOT NULL,
    given REAL NOT NULL
) STRICT;
CREATE INDEX released_by_job ON released (job);

CREATE TABLE states (
    id TEXT NOT NULL,
    job TEXT NOT NULL,
    round INTEGER NOT NULL,
    origin TEXT NOT NULL,
    PRIMARY KEY (job, id)
) STRICT;

CREATE TABLE secure_sums (
    session TEXT PRIMARY KEY,
    ask TEXT NOT NULL,
    job TEXT NOT NULL,
    attempt INTEGER NOT NULL,
    revealed INTEGER NOT NULL,
    body BLOB NOT NULL
) STRICT;
CREATE INDEX secure_sums_by_ask ON secure_sums (ask);
CREATE INDEX secure_sums_by_job ON secure_sums (job);

CREATE TABLE budgets (
    dataset TEXT NOT NULL,
    project TEXT NOT NULL,
    researchers TEXT NOT NULL,
    epsilon REAL NOT NULL,
    delta REAL NOT NULL,
    changed REAL NOT NULL,
    changed_by TEXT NOT NULL,
    PRIMARY KEY (dataset, project, researchers)
) STRICT;

CREATE TABLE charges (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    task TEXT NOT NULL,
    number INTEGER NOT NULL,
    dataset TEXT NOT NULL,
    project TEXT NOT NULL,
    researcher TEXT NOT NULL,
    job TEXT NOT NULL,
    round INTEGER NOT NULL,
    step TEXT NOT NULL,
    mechanisms BLOB NOT NULL,
    epsilon REAL NOT NULL,
    delta REAL NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('reserved', 'spent', 'returned')),
    at REAL NOT NULL,
    settled REAL,
    tree INTEGER NOT NULL DEFAULT 0,
    first INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0,
    passes INTEGER NOT NULL DEFAULT 0,
    begun INTEGER NOT NULL DEFAULT 0,
    UNIQUE (task, number)
) STRICT;
CREATE INDEX charges_by_dataset ON charges (dataset, state);

CREATE TABLE noise_trees (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    seed BLOB NOT NULL,
    next INTEGER NOT NULL,
    paid INTEGER NOT NULL
) STRICT;

CREATE TABLE processed (
    plan TEXT NOT NULL,
    dataset TEXT NOT NULL,
    project TEXT NOT NULL,
    item TEXT NOT NULL,
    mtime REAL,
    hash TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (plan, dataset, project, item)
) STRICT, WITHOUT ROWID;

CREATE TABLE failed (
    plan TEXT NOT NULL,
    dataset TEXT NOT NULL,
    project TEXT NOT NULL,
    item TEXT NOT NULL,
    mtime REAL,
    hash TEXT NOT NULL,
    reason TEXT NOT NULL,
    at REAL NOT NULL,
    PRIMARY KEY (plan, dataset, project, item)
) STRICT, WITHOUT ROWID;

CREATE TABLE outbox (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    party TEXT,
    session TEXT,
    payload BLOB NOT NULL,
    cut_at INTEGER NOT NULL,
    cut TEXT NOT NULL,
    expires REAL NOT NULL,
    job TEXT NOT NULL,
    task TEXT NOT NULL
) STRICT;

CREATE TABLE attached (
    sha256 TEXT PRIMARY KEY,
    content BLOB NOT NULL
) STRICT;

CREATE TABLE seen (
    key TEXT PRIMARY KEY,
    expires REAL NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_by_expiry ON seen (expires);

CREATE TABLE live (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    written REAL NOT NULL,
    facts BLOB NOT NULL
) STRICT;
"""
