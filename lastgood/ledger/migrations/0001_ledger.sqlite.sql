-- min_reader: 1
-- Rows are only ever added. Every table is WITHOUT ROWID and every insert trigger refuses a key that is taken, because
-- INSERT OR REPLACE deletes the old row without firing delete triggers. Triggers check existence although foreign keys
-- do, because SQLite enforces foreign keys only for connections that ask for it. JSON is checked against the columns.

CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY NOT NULL,
    applied_at REAL NOT NULL DEFAULT ((julianday('now') - 2440587.5) * 86400.0),
    min_reader INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE bundle (
    id TEXT PRIMARY KEY NOT NULL CHECK (length(id) = 71 AND id GLOB 'sha256:*' AND substr(id, 8) NOT GLOB '*[^0-9a-f]*'),
    service TEXT NOT NULL CHECK (service <> ''),
    manifest TEXT NOT NULL CHECK (json_valid(manifest)),
    provenance TEXT NOT NULL CHECK (json_valid(provenance)),
    registered_at REAL NOT NULL CHECK (registered_at >= 0 AND registered_at < 1e12),
    UNIQUE (service, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX bundle_by_time ON bundle (service, registered_at, id);

CREATE TABLE revision (
    service TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number >= 1),
    state TEXT NOT NULL CHECK (json_valid(state)),
    stable TEXT,
    candidate TEXT,
    previous TEXT,
    verb TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL CHECK (json_valid(evidence)),
    operation TEXT,
    at REAL NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (service, number),
    UNIQUE (service, operation),
    FOREIGN KEY (service, stable) REFERENCES bundle (service, id),
    FOREIGN KEY (service, candidate) REFERENCES bundle (service, id),
    FOREIGN KEY (service, previous) REFERENCES bundle (service, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_by_time ON revision (service, at, number);
CREATE INDEX revision_by_stable ON revision (service, stable);

-- A lift is written just before its revision, which may then name the bundle; a condemnation just after it.
CREATE TABLE mark (
    service TEXT NOT NULL,
    bundle TEXT NOT NULL,
    revision INTEGER NOT NULL,
    kind TEXT NOT NULL CHECK (kind IN ('lifted', 'quarantined', 'revoked')),
    reason TEXT NOT NULL,
    PRIMARY KEY (service, bundle, revision, kind),
    FOREIGN KEY (service, bundle) REFERENCES bundle (service, id),
    FOREIGN KEY (service, revision) REFERENCES revision (service, number) DEFERRABLE INITIALLY DEFERRED
) STRICT, WITHOUT ROWID;
CREATE INDEX mark_by_revision ON mark (service, revision);

CREATE TABLE evaluation (
    bundle TEXT NOT NULL REFERENCES bundle (id),
    seq INTEGER NOT NULL CHECK (seq >= 1),
    kind TEXT NOT NULL,
    report TEXT NOT NULL CHECK (json_valid(report)),
    at REAL NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (bundle, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    service TEXT NOT NULL CHECK (service <> ''),
    seq INTEGER NOT NULL CHECK (seq >= 1),
    kind TEXT NOT NULL CHECK (kind IN ('bundle', 'revision', 'evaluation', 'note')),
    subject TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    actor TEXT NOT NULL,
    at REAL NOT NULL CHECK (at >= 0 AND at < 1e12),
    prev_hash TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (service, seq)
) STRICT, WITHOUT ROWID;
-- With the hash, so that looking up the entries of a few revisions does not read every entry of the service.
CREATE INDEX audit_by_subject ON audit (service, kind, subject, hash);

CREATE TRIGGER bundle_guard BEFORE INSERT ON bundle BEGIN
    SELECT RAISE(ABORT, 'lastgood: this bundle is registered already')
        WHERE EXISTS (SELECT 1 FROM bundle WHERE id = NEW.id);
    SELECT RAISE(ABORT, 'lastgood: the manifest is of another service')
        WHERE json_extract(NEW.manifest, '$.service') IS NOT NEW.service;
END;

CREATE TRIGGER revision_guard BEFORE INSERT ON revision BEGIN
    SELECT RAISE(ABORT, 'lastgood: a revision must be the newest plus one')
        WHERE NEW.number IS NOT (SELECT coalesce(max(number), 0) + 1 FROM revision WHERE service = NEW.service);
    SELECT RAISE(ABORT, 'lastgood: this operation has a revision already')
        WHERE EXISTS (SELECT 1 FROM revision WHERE service = NEW.service AND operation = NEW.operation);
    SELECT RAISE(ABORT, 'lastgood: a revision cannot be older than the one before')
        WHERE NEW.at < (SELECT at FROM revision WHERE service = NEW.service AND number = NEW.number - 1);
    SELECT RAISE(ABORT, 'lastgood: the columns of a revision must equal its state')
        WHERE json_extract(NEW.state, '$.service') IS NOT NEW.service
           OR json_extract(NEW.state, '$.revision') IS NOT NEW.number
           OR json_extract(NEW.state, '$.stable') IS NOT NEW.stable
           OR json_extract(NEW.state, '$.candidate') IS NOT NEW.candidate
           OR json_extract(NEW.state, '$.previous') IS NOT NEW.previous;
    -- Of a name that stands twice some readers take the first value, some the last.
    SELECT RAISE(ABORT, 'lastgood: a state names each thing once')
        WHERE (SELECT count(*) <> count(DISTINCT key) FROM json_each(NEW.state));
    SELECT RAISE(ABORT, 'lastgood: stable, candidate and previous must be registered bundles of this service')
        WHERE (NEW.stable IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.stable AND service = NEW.service))
           OR (NEW.candidate IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.candidate AND service = NEW.service))
           OR (NEW.previous IS NOT NULL AND NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.previous AND service = NEW.service));
    SELECT RAISE(ABORT, 'lastgood: a revoked bundle can never be stable or candidate')
        WHERE EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = NEW.stable AND kind = 'revoked')
           OR EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = NEW.candidate AND kind = 'revoked');
    SELECT RAISE(ABORT, 'lastgood: a quarantined bundle cannot be stable or candidate')
        WHERE (SELECT kind FROM mark WHERE service = NEW.service AND bundle = NEW.stable
               ORDER BY revision DESC, kind DESC LIMIT 1) = 'quarantined'
           OR (SELECT kind FROM mark WHERE service = NEW.service AND bundle = NEW.candidate
               ORDER BY revision DESC, kind DESC LIMIT 1) = 'quarantined';
END;

CREATE TRIGGER mark_guard BEFORE INSERT ON mark BEGIN
    SELECT RAISE(ABORT, 'lastgood: this mark is there already')
        WHERE EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = NEW.bundle
                      AND revision = NEW.revision AND kind = NEW.kind);
    SELECT RAISE(ABORT, 'lastgood: a mark must name a registered bundle of this service')
        WHERE NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.bundle AND service = NEW.service);
    SELECT RAISE(ABORT, 'lastgood: a mark belongs to the revision that is being written')
        WHERE NEW.revision IS NOT (SELECT coalesce(max(number), 0) + (NEW.kind = 'lifted') FROM revision WHERE service = NEW.service);
    SELECT RAISE(ABORT, 'lastgood: a revoked bundle stays revoked')
        WHERE NEW.kind = 'lifted' AND EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = NEW.bundle AND kind = 'revoked');
    SELECT RAISE(ABORT, 'lastgood: what is stable or candidate cannot be quarantined or revoked; roll back instead')
        WHERE NEW.kind <> 'lifted' AND EXISTS (SELECT 1 FROM revision WHERE service = NEW.service AND number = NEW.revision
                                               AND NEW.bundle IN (stable, candidate));
END;

CREATE TRIGGER evaluation_guard BEFORE INSERT ON evaluation BEGIN
    SELECT RAISE(ABORT, 'lastgood: an evaluation must name a registered bundle')
        WHERE NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.bundle);
    SELECT RAISE(ABORT, 'lastgood: an evaluation must be the newest plus one')
        WHERE NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM evaluation WHERE bundle = NEW.bundle);
END;

CREATE TRIGGER audit_guard BEFORE INSERT ON audit BEGIN
    SELECT RAISE(ABORT, 'lastgood: an audit entry must be the newest plus one')
        WHERE NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM audit WHERE service = NEW.service);
    SELECT RAISE(ABORT, 'lastgood: an audit entry must continue the chain')
        WHERE NEW.prev_hash IS NOT coalesce((SELECT hash FROM audit WHERE service = NEW.service AND seq = NEW.seq - 1), '');
END;

CREATE TRIGGER schema_version_guard BEFORE INSERT ON schema_version BEGIN
    SELECT RAISE(ABORT, 'lastgood: a schema version must be the newest plus one')
        WHERE NEW.version IS NOT (SELECT coalesce(max(version), 0) + 1 FROM schema_version);
END;

CREATE TRIGGER bundle_no_update BEFORE UPDATE ON bundle BEGIN SELECT RAISE(ABORT, 'lastgood: bundles are never changed'); END;
CREATE TRIGGER bundle_no_delete BEFORE DELETE ON bundle BEGIN SELECT RAISE(ABORT, 'lastgood: bundles are never deleted'); END;
CREATE TRIGGER revision_no_update BEFORE UPDATE ON revision BEGIN SELECT RAISE(ABORT, 'lastgood: revisions are never changed'); END;
CREATE TRIGGER revision_no_delete BEFORE DELETE ON revision BEGIN SELECT RAISE(ABORT, 'lastgood: revisions are never deleted'); END;
CREATE TRIGGER mark_no_update BEFORE UPDATE ON mark BEGIN SELECT RAISE(ABORT, 'lastgood: marks are never changed'); END;
CREATE TRIGGER mark_no_delete BEFORE DELETE ON mark BEGIN SELECT RAISE(ABORT, 'lastgood: marks are never deleted'); END;
CREATE TRIGGER evaluation_no_update BEFORE UPDATE ON evaluation BEGIN SELECT RAISE(ABORT, 'lastgood: evaluations are never changed'); END;
CREATE TRIGGER evaluation_no_delete BEFORE DELETE ON evaluation BEGIN SELECT RAISE(ABORT, 'lastgood: evaluations are never deleted'); END;
CREATE TRIGGER audit_no_update BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'lastgood: audit entries are never changed'); END;
CREATE TRIGGER audit_no_delete BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'lastgood: audit entries are never deleted'); END;
CREATE TRIGGER schema_version_no_update BEFORE UPDATE ON schema_version BEGIN SELECT RAISE(ABORT, 'lastgood: schema versions are never changed'); END;
CREATE TRIGGER schema_version_no_delete BEFORE DELETE ON schema_version BEGIN SELECT RAISE(ABORT, 'lastgood: schema versions are never deleted'); END;
