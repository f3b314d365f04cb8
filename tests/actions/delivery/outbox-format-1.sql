PRAGMA user_version = 1;
BEGIN TRANSACTION;
CREATE TABLE alerts (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    rule TEXT NOT NULL,
    version TEXT NOT NULL,
    key TEXT NOT NULL,
    opened_at_ms INTEGER NOT NULL,
    resolves_at_ms INTEGER NOT NULL,
    peak INTEGER NOT NULL,
    peak_exact INTEGER NOT NULL,
    events INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    resolved INTEGER NOT NULL,
    body BLOB NOT NULL,
    changed_ms INTEGER NOT NULL
) STRICT;
INSERT INTO "alerts" VALUES(1,'a','hot','7d1e8a560f6f','["Nokia"]',100000,104000,20,1,20,1,0,X'7B7D',1000000000);
CREATE TABLE aliases (
    id TEXT PRIMARY KEY,
    alert_id TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
    number INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    alert_id TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    action TEXT NOT NULL,
    recipient TEXT NOT NULL,
    body BLOB NOT NULL,
    made_at_ms INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'dead', 'suppressed')),
    reason TEXT,
    due_ms INTEGER NOT NULL,
    scheduled_ms INTEGER NOT NULL,
    owner TEXT NOT NULL,
    leased INTEGER NOT NULL DEFAULT 0,
    attempts INTEGER NOT NULL DEFAULT 0,
    failures INTEGER NOT NULL DEFAULT 0,
    failing_since_ms INTEGER NOT NULL DEFAULT 0,
    releases INTEGER NOT NULL DEFAULT 0,
    first_attempt_ms INTEGER,
    last_answer TEXT,
    ended_ms INTEGER
) STRICT;
INSERT INTO "deliveries" VALUES(1,'6c8d961945ab9dbeaa20e6d45134cca8','a',1,'web','w',X'7B7D',1000000000,'pending',NULL,1000000000,1000000000,'first',0,0,0,0,0,NULL,NULL,NULL);
CREATE TABLE targets (
    action TEXT PRIMARY KEY,
    last_success_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX alerts_of_a_key ON alerts (rule, version, key, resolves_at_ms);
CREATE INDEX aliases_of_an_alert ON aliases (alert_id);
CREATE INDEX deliveries_due ON deliveries (owner, action, due_ms, number) WHERE state = 'pending';
CREATE INDEX deliveries_scheduled ON deliveries (owner, action, scheduled_ms) WHERE state = 'pending';
CREATE INDEX deliveries_in_line ON deliveries (alert_id, action, recipient, sequence) WHERE state = 'pending';
CREATE INDEX deliveries_of_an_alert ON deliveries (alert_id, sequence);
CREATE INDEX deliveries_ended ON deliveries (ended_ms) WHERE ended_ms IS NOT NULL;
COMMIT;
