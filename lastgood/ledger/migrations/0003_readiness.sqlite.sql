-- min_reader: 2
-- What each host says of the workers that it runs. Only the host itself writes its rows, when something has changed and now
-- and then as a sign of life; whoever decides reads them all. No history: a row is replaced, and goes with its worker.

CREATE TABLE readiness (
    service TEXT NOT NULL CHECK (service <> ''),
    arm TEXT NOT NULL CHECK (arm <> ''),
    host TEXT NOT NULL CHECK (host <> ''),
    ready INTEGER NOT NULL CHECK (ready IN (0, 1)),
    failures INTEGER NOT NULL CHECK (failures >= 0),
    since REAL NOT NULL CHECK (since >= 0 AND since < 1e12),
    seen_at REAL NOT NULL CHECK (seen_at >= 0 AND seen_at < 1e12),
    detail TEXT NOT NULL,
    PRIMARY KEY (service, arm, host)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER readiness_guard BEFORE INSERT ON readiness BEGIN
    SELECT RAISE(ABORT, 'lastgood: this host has a row for this arm already')
        WHERE EXISTS (SELECT 1 FROM readiness WHERE service = NEW.service AND arm = NEW.arm AND host = NEW.host);
END;
CREATE TRIGGER readiness_change BEFORE UPDATE ON readiness BEGIN
    SELECT RAISE(ABORT, 'lastgood: what a host says of an arm keeps its service, arm and host')
        WHERE NEW.service IS NOT OLD.service OR NEW.arm IS NOT OLD.arm OR NEW.host IS NOT OLD.host;
END;
