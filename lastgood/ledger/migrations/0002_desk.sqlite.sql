-- min_reader: 2
-- States written from here on have fields that the release before cannot read; it must not try.
-- These tables are a controller's desk, not history: a lease changes hands, measurements are forgotten in time, pages are
-- delivered. Nothing of it is in the audit chain: the verdicts that led to a change stand in its revision's evidence.

CREATE TABLE lease (
    name TEXT PRIMARY KEY NOT NULL CHECK (name <> ''),
    holder TEXT NOT NULL CHECK (holder <> ''),
    until REAL NOT NULL CHECK (until >= 0 AND until < 1e12),
    token INTEGER NOT NULL CHECK (token >= 1)
) STRICT, WITHOUT ROWID;

CREATE TABLE measurement (
    service TEXT NOT NULL CHECK (service <> ''),
    analysis TEXT NOT NULL CHECK (analysis <> ''),
    seq INTEGER NOT NULL CHECK (seq >= 1),
    body TEXT NOT NULL CHECK (json_valid(body)),
    at REAL NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (service, analysis, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX measurement_by_time ON measurement (service, at);

CREATE TABLE page (
    service TEXT NOT NULL CHECK (service <> ''),
    revision INTEGER NOT NULL CHECK (revision >= 0),
    key TEXT NOT NULL CHECK (key <> ''),
    severity TEXT NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    resolves INTEGER NOT NULL CHECK (resolves IN (0, 1)),
    summary TEXT NOT NULL,
    body TEXT NOT NULL CHECK (json_valid(body)),
    at REAL NOT NULL CHECK (at >= 0 AND at < 1e12),
    delivered_at REAL CHECK (delivered_at >= 0 AND delivered_at < 1e12),
    PRIMARY KEY (service, revision, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX page_open ON page (key, service, revision) WHERE delivered_at IS NULL;

CREATE TABLE delivery (
    service TEXT NOT NULL,
    revision INTEGER NOT NULL,
    key TEXT NOT NULL,
    channel TEXT NOT NULL CHECK (channel <> ''),
    tries INTEGER NOT NULL CHECK (tries >= 1),
    next_at REAL NOT NULL CHECK (next_at >= 0 AND next_at < 1e12),
    delivered_at REAL CHECK (delivered_at >= 0 AND delivered_at < 1e12),
    error TEXT NOT NULL,
    PRIMARY KEY (service, revision, key, channel),
    FOREIGN KEY (service, revision, key) REFERENCES page (service, revision, key)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER lease_guard BEFORE INSERT ON lease BEGIN
    SELECT RAISE(ABORT, 'lastgood: this lease is there already')
        WHERE EXISTS (SELECT 1 FROM lease WHERE name = NEW.name);
    SELECT RAISE(ABORT, 'lastgood: the first token of a lease is 1')
        WHERE NEW.token IS NOT 1;
END;
CREATE TRIGGER lease_change BEFORE UPDATE ON lease BEGIN
    SELECT RAISE(ABORT, 'lastgood: a lease keeps its name, and takes the next token exactly when it changes hands')
        WHERE NEW.name IS NOT OLD.name OR NEW.token IS NOT OLD.token + (NEW.holder IS NOT OLD.holder);
END;
CREATE TRIGGER lease_no_delete BEFORE DELETE ON lease BEGIN
    SELECT RAISE(ABORT, 'lastgood: leases are never deleted, or their tokens would begin again');
END;

CREATE TRIGGER measurement_guard BEFORE INSERT ON measurement BEGIN
    SELECT RAISE(ABORT, 'lastgood: a measurement must be the newest plus one')
        WHERE NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM measurement WHERE service = NEW.service AND analysis = NEW.analysis);
END;
CREATE TRIGGER measurement_no_update BEFORE UPDATE ON measurement BEGIN
    SELECT RAISE(ABORT, 'lastgood: measurements are never changed');
END;

CREATE TRIGGER page_guard BEFORE INSERT ON page BEGIN
    SELECT RAISE(ABORT, 'lastgood: this page is there already')
        WHERE EXISTS (SELECT 1 FROM page WHERE service = NEW.service AND revision = NEW.revision AND key = NEW.key);
    SELECT RAISE(ABORT, 'lastgood: a page belongs to a revision that is there')
        WHERE NEW.revision > (SELECT coalesce(max(number), 0) FROM revision WHERE service = NEW.service);
    SELECT RAISE(ABORT, 'lastgood: a new page is not delivered yet')
        WHERE NEW.delivered_at IS NOT NULL;
END;
CREATE TRIGGER page_change BEFORE UPDATE ON page BEGIN
    SELECT RAISE(ABORT, 'lastgood: pages are never changed, only delivered, once')
        WHERE OLD.delivered_at IS NOT NULL OR NEW.service IS NOT OLD.service OR NEW.revision IS NOT OLD.revision
           OR NEW.key IS NOT OLD.key OR NEW.severity IS NOT OLD.severity OR NEW.resolves IS NOT OLD.resolves
           OR NEW.summary IS NOT OLD.summary OR NEW.body IS NOT OLD.body OR NEW.at IS NOT OLD.at;
END;
CREATE TRIGGER page_no_delete BEFORE DELETE ON page BEGIN SELECT RAISE(ABORT, 'lastgood: pages are never deleted'); END;

CREATE TRIGGER delivery_guard BEFORE INSERT ON delivery BEGIN
    SELECT RAISE(ABORT, 'lastgood: this delivery is there already')
        WHERE EXISTS (SELECT 1 FROM delivery WHERE service = NEW.service AND revision = NEW.revision AND key = NEW.key
                      AND channel = NEW.channel);
    SELECT RAISE(ABORT, 'lastgood: a delivery must name a page')
        WHERE NOT EXISTS (SELECT 1 FROM page WHERE service = NEW.service AND revision = NEW.revision AND key = NEW.key);
END;
CREATE TRIGGER delivery_change BEFORE UPDATE ON delivery BEGIN
    SELECT RAISE(ABORT, 'lastgood: a delivery keeps its page and its channel, and what was delivered stays delivered')
        WHERE OLD.delivered_at IS NOT NULL OR NEW.service IS NOT OLD.service OR NEW.revision IS NOT OLD.revision
           OR NEW.key IS NOT OLD.key OR NEW.channel IS NOT OLD.channel;
END;
