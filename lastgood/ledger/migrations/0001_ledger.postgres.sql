-- min_reader: 1
-- Rows are only ever added. The guards take the service's lock before they look, so that two foreign clients at once
-- cannot pass each other's checks; this needs read committed, where a statement after the lock sees what was committed.
-- Their search path is pinned, temporary tables last: a client cannot put other tables in front of these.

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE schema_version (
    version INTEGER PRIMARY KEY,
    applied_at DOUBLE PRECISION NOT NULL DEFAULT extract(epoch FROM clock_timestamp()),
    min_reader INTEGER NOT NULL
);

CREATE TABLE bundle (
    id TEXT COLLATE "C" PRIMARY KEY CHECK (id ~ '^sha256:[0-9a-f]{64}$'),
    service TEXT COLLATE "C" NOT NULL CHECK (service <> ''),
    manifest TEXT NOT NULL,
    provenance TEXT NOT NULL,
    registered_at DOUBLE PRECISION NOT NULL CHECK (registered_at >= 0 AND registered_at < 1e12),
    UNIQUE (service, id)
);
CREATE INDEX bundle_by_time ON bundle (service, registered_at, id);

CREATE TABLE revision (
    service TEXT COLLATE "C" NOT NULL,
    number BIGINT NOT NULL CHECK (number >= 1),
    state TEXT NOT NULL,
    stable TEXT COLLATE "C",
    candidate TEXT COLLATE "C",
    previous TEXT COLLATE "C",
    verb TEXT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    evidence TEXT NOT NULL,
    operation TEXT COLLATE "C",
    at DOUBLE PRECISION NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (service, number),
    UNIQUE (service, operation),
    FOREIGN KEY (service, stable) REFERENCES bundle (service, id),
    FOREIGN KEY (service, candidate) REFERENCES bundle (service, id),
    FOREIGN KEY (service, previous) REFERENCES bundle (service, id)
);
CREATE INDEX revision_by_time ON revision (service, at, number);
CREATE INDEX revision_by_stable ON revision (service, stable);

-- A lift is written just before its revision, which may then name the bundle; a condemnation just after it.
CREATE TABLE mark (
    service TEXT COLLATE "C" NOT NULL,
    bundle TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('lifted', 'quarantined', 'revoked')),
    reason TEXT NOT NULL,
    PRIMARY KEY (service, bundle, revision, kind),
    FOREIGN KEY (service, bundle) REFERENCES bundle (service, id),
    FOREIGN KEY (service, revision) REFERENCES revision (service, number) DEFERRABLE INITIALLY DEFERRED
);
CREATE INDEX mark_by_revision ON mark (service, revision);

CREATE TABLE evaluation (
    bundle TEXT COLLATE "C" NOT NULL REFERENCES bundle (id),
    seq BIGINT NOT NULL CHECK (seq >= 1),
    kind TEXT NOT NULL,
    report TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (bundle, seq)
);

CREATE TABLE audit (
    service TEXT COLLATE "C" NOT NULL CHECK (service <> ''),
    seq BIGINT NOT NULL CHECK (seq >= 1),
    kind TEXT COLLATE "C" NOT NULL CHECK (kind IN ('bundle', 'revision', 'evaluation', 'note')),
    subject TEXT COLLATE "C" NOT NULL,
    body TEXT NOT NULL,
    actor TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL CHECK (at >= 0 AND at < 1e12),
    prev_hash TEXT COLLATE "C" NOT NULL,
    hash TEXT COLLATE "C" NOT NULL,
    PRIMARY KEY (service, seq)
);
-- With the hash, so that looking up the entries of a few revisions does not read every entry of the service.
CREATE INDEX audit_by_subject ON audit (service, kind, subject, hash);

CREATE FUNCTION lastgood_refuse(message TEXT) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'lastgood: %', message USING ERRCODE = 'integrity_constraint_violation';
END $$;

CREATE FUNCTION lastgood_lock(service TEXT) RETURNS void LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        PERFORM lastgood_refuse('write at isolation level read committed');
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('lastgood/' || service, 0));
END $$;

CREATE FUNCTION lastgood_bundle_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.manifest::json ->> 'service' IS DISTINCT FROM NEW.service THEN
        PERFORM lastgood_refuse('the manifest is of another service');
    END IF;
    IF 'sha256:' || encode(sha256(convert_to(NEW.manifest, 'UTF8')), 'hex') <> NEW.id THEN
        PERFORM lastgood_refuse('the id is not the digest of the manifest');
    END IF;
    PERFORM NEW.provenance::json;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_revision_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    state json := NEW.state::json;
    digest TEXT;
BEGIN
    PERFORM lastgood_lock(NEW.service);
    PERFORM NEW.evidence::json;
    IF NEW.number <> (SELECT coalesce(max(number), 0) + 1 FROM revision WHERE service = NEW.service) THEN
        PERFORM lastgood_refuse('a revision must be the newest plus one');
    END IF;
    IF NEW.at < (SELECT at FROM revision WHERE service = NEW.service AND number = NEW.number - 1) THEN
        PERFORM lastgood_refuse('a revision cannot be older than the one before');
    END IF;
    IF state ->> 'service' IS DISTINCT FROM NEW.service OR state ->> 'revision' IS DISTINCT FROM NEW.number::TEXT
        OR state ->> 'stable' IS DISTINCT FROM NEW.stable OR state ->> 'candidate' IS DISTINCT FROM NEW.candidate
        OR state ->> 'previous' IS DISTINCT FROM NEW.previous THEN
        PERFORM lastgood_refuse('the columns of a revision must equal its state');
    END IF;
    -- Of a name that stands twice some readers take the first value, some the last.
    IF (SELECT count(*) <> count(DISTINCT key) FROM json_each(state)) THEN
        PERFORM lastgood_refuse('a state names each thing once');
    END IF;
    FOREACH digest IN ARRAY array_remove(ARRAY[NEW.stable, NEW.candidate, NEW.previous], NULL) LOOP
        IF NOT EXISTS (SELECT 1 FROM bundle WHERE id = digest AND service = NEW.service) THEN
            PERFORM lastgood_refuse('stable, candidate and previous must be registered bundles of this service');
        END IF;
    END LOOP;
    FOREACH digest IN ARRAY array_remove(ARRAY[NEW.stable, NEW.candidate], NULL) LOOP
        IF EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = digest AND kind = 'revoked') THEN
            PERFORM lastgood_refuse('a revoked bundle can never be stable or candidate');
        END IF;
        IF (SELECT kind FROM mark WHERE service = NEW.service AND bundle = digest
            ORDER BY revision DESC, kind DESC LIMIT 1) = 'quarantined' THEN
            PERFORM lastgood_refuse('a quarantined bundle cannot be stable or candidate');
        END IF;
    END LOOP;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_mark_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lastgood_lock(NEW.service);
    IF NOT EXISTS (SELECT 1 FROM bundle WHERE id = NEW.bundle AND service = NEW.service) THEN
        PERFORM lastgood_refuse('a mark must name a registered bundle of this service');
    END IF;
    IF NEW.revision <> (SELECT coalesce(max(number), 0) + (NEW.kind = 'lifted')::INT FROM revision WHERE service = NEW.service) THEN
        PERFORM lastgood_refuse('a mark belongs to the revision that is being written');
    END IF;
    IF NEW.kind = 'lifted' AND EXISTS (SELECT 1 FROM mark WHERE service = NEW.service AND bundle = NEW.bundle AND kind = 'revoked') THEN
        PERFORM lastgood_refuse('a revoked bundle stays revoked');
    END IF;
    IF NEW.kind <> 'lifted' AND EXISTS (SELECT 1 FROM revision WHERE service = NEW.service AND number = NEW.revision
                                        AND NEW.bundle IN (stable, candidate)) THEN
        PERFORM lastgood_refuse('what is stable or candidate cannot be quarantined or revoked; roll back instead');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_evaluation_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    service TEXT := (SELECT b.service FROM bundle b WHERE b.id = NEW.bundle);
BEGIN
    IF service IS NULL THEN
        PERFORM lastgood_refuse('an evaluation must name a registered bundle');
    END IF;
    PERFORM lastgood_lock(service);
    PERFORM NEW.report::json;
    IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM evaluation WHERE bundle = NEW.bundle) THEN
        PERFORM lastgood_refuse('an evaluation must be the newest plus one');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_audit_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lastgood_lock(NEW.service);
    PERFORM NEW.body::json;
    IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM audit WHERE service = NEW.service) THEN
        PERFORM lastgood_refuse('an audit entry must be the newest plus one');
    END IF;
    IF NEW.prev_hash <> coalesce((SELECT hash FROM audit WHERE service = NEW.service AND seq = NEW.seq - 1), '') THEN
        PERFORM lastgood_refuse('an audit entry must continue the chain');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_schema_version_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.version <> (SELECT coalesce(max(version), 0) + 1 FROM schema_version) THEN
        PERFORM lastgood_refuse('a schema version must be the newest plus one');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_no_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lastgood_refuse(format('rows of %s are never changed or deleted', TG_TABLE_NAME));
    RETURN NULL;
END $$;

CREATE TRIGGER bundle_guard BEFORE INSERT ON bundle FOR EACH ROW EXECUTE FUNCTION lastgood_bundle_guard();
CREATE TRIGGER revision_guard BEFORE INSERT ON revision FOR EACH ROW EXECUTE FUNCTION lastgood_revision_guard();
CREATE TRIGGER mark_guard BEFORE INSERT ON mark FOR EACH ROW EXECUTE FUNCTION lastgood_mark_guard();
CREATE TRIGGER evaluation_guard BEFORE INSERT ON evaluation FOR EACH ROW EXECUTE FUNCTION lastgood_evaluation_guard();
CREATE TRIGGER audit_guard BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION lastgood_audit_guard();
CREATE TRIGGER schema_version_guard BEFORE INSERT ON schema_version FOR EACH ROW EXECUTE FUNCTION lastgood_schema_version_guard();

CREATE TRIGGER bundle_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON bundle EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER revision_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON revision EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER mark_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON mark EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER evaluation_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON evaluation EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER schema_version_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON schema_version EXECUTE FUNCTION lastgood_no_change();
