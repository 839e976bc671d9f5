-- min_reader: 2
-- States written from here on have fields that the release before cannot read; it must not try.
-- These tables are a controller's desk, not history: a lease changes hands, measurements are forgotten in time, pages are
-- delivered. Nothing of it is in the audit chain: the verdicts that led to a change stand in its revision's evidence.
-- The guards take no lock, so that a measurement never waits for a rollback nor the other way round; primary keys decide.

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE lease (
    name TEXT COLLATE "C" PRIMARY KEY CHECK (name <> ''),
    holder TEXT COLLATE "C" NOT NULL CHECK (holder <> ''),
    until DOUBLE PRECISION NOT NULL CHECK (until >= 0 AND until < 1e12),
    token BIGINT NOT NULL CHECK (token >= 1)
);

CREATE TABLE measurement (
    service TEXT COLLATE "C" NOT NULL CHECK (service <> ''),
    analysis TEXT COLLATE "C" NOT NULL CHECK (analysis <> ''),
    seq BIGINT NOT NULL CHECK (seq >= 1),
    body TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL CHECK (at >= 0 AND at < 1e12),
    PRIMARY KEY (service, analysis, seq)
);
CREATE INDEX measurement_by_time ON measurement (service, at);

CREATE TABLE page (
    service TEXT COLLATE "C" NOT NULL CHECK (service <> ''),
    revision BIGINT NOT NULL CHECK (revision >= 0),
    key TEXT COLLATE "C" NOT NULL CHECK (key <> ''),
    severity TEXT COLLATE "C" NOT NULL CHECK (severity IN ('critical', 'warning', 'info')),
    resolves INTEGER NOT NULL CHECK (resolves IN (0, 1)),
    summary TEXT NOT NULL,
    body TEXT NOT NULL,
    at DOUBLE PRECISION NOT NULL CHECK (at >= 0 AND at < 1e12),
    delivered_at DOUBLE PRECISION CHECK (delivered_at >= 0 AND delivered_at < 1e12),
    PRIMARY KEY (service, revision, key)
);
CREATE INDEX page_open ON page (key, service, revision) WHERE delivered_at IS NULL;

CREATE TABLE delivery (
    service TEXT COLLATE "C" NOT NULL,
    revision BIGINT NOT NULL,
    key TEXT COLLATE "C" NOT NULL,
    channel TEXT COLLATE "C" NOT NULL CHECK (channel <> ''),
    tries INTEGER NOT NULL CHECK (tries >= 1),
    next_at DOUBLE PRECISION NOT NULL CHECK (next_at >= 0 AND next_at < 1e12),
    delivered_at DOUBLE PRECISION CHECK (delivered_at >= 0 AND delivered_at < 1e12),
    error TEXT NOT NULL,
    PRIMARY KEY (service, revision, key, channel),
    FOREIGN KEY (service, revision, key) REFERENCES page (service, revision, key)
);

CREATE FUNCTION lastgood_lease_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.token <> 1 THEN
        PERFORM lastgood_refuse('the first token of a lease is 1');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_lease_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.name <> OLD.name OR NEW.token <> OLD.token + (NEW.holder <> OLD.holder)::INT THEN
        PERFORM lastgood_refuse('a lease keeps its name, and takes the next token exactly when it changes hands');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_measurement_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM NEW.body::json;
    IF NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM measurement WHERE service = NEW.service AND analysis = NEW.analysis) THEN
        PERFORM lastgood_refuse('a measurement must be the newest plus one');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_measurement_no_update() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM lastgood_refuse('measurements are never changed');
    RETURN NULL;
END $$;

CREATE FUNCTION lastgood_page_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    PERFORM NEW.body::json;
    IF NEW.revision > (SELECT coalesce(max(number), 0) FROM revision WHERE service = NEW.service) THEN
        PERFORM lastgood_refuse('a page belongs to a revision that is there');
    END IF;
    IF NEW.delivered_at IS NOT NULL THEN
        PERFORM lastgood_refuse('a new page is not delivered yet');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_page_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.delivered_at IS NOT NULL
       OR (NEW.service, NEW.revision, NEW.key, NEW.severity, NEW.resolves, NEW.summary, NEW.body, NEW.at)
          IS DISTINCT FROM (OLD.service, OLD.revision, OLD.key, OLD.severity, OLD.resolves, OLD.summary, OLD.body, OLD.at) THEN
        PERFORM lastgood_refuse('pages are never changed, only delivered, once');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_delivery_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM page WHERE service = NEW.service AND revision = NEW.revision AND key = NEW.key) THEN
        PERFORM lastgood_refuse('a delivery must name a page');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_delivery_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.delivered_at IS NOT NULL
       OR (NEW.service, NEW.revision, NEW.key, NEW.channel) IS DISTINCT FROM (OLD.service, OLD.revision, OLD.key, OLD.channel) THEN
        PERFORM lastgood_refuse('a delivery keeps its page and its channel, and what was delivered stays delivered');
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER lease_guard BEFORE INSERT ON lease FOR EACH ROW EXECUTE FUNCTION lastgood_lease_guard();
CREATE TRIGGER lease_change BEFORE UPDATE ON lease FOR EACH ROW EXECUTE FUNCTION lastgood_lease_change();
CREATE TRIGGER lease_no_delete BEFORE DELETE OR TRUNCATE ON lease EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER measurement_guard BEFORE INSERT ON measurement FOR EACH ROW EXECUTE FUNCTION lastgood_measurement_guard();
CREATE TRIGGER measurement_no_update BEFORE UPDATE ON measurement EXECUTE FUNCTION lastgood_measurement_no_update();
CREATE TRIGGER page_guard BEFORE INSERT ON page FOR EACH ROW EXECUTE FUNCTION lastgood_page_guard();
CREATE TRIGGER page_change BEFORE UPDATE ON page FOR EACH ROW EXECUTE FUNCTION lastgood_page_change();
CREATE TRIGGER page_no_delete BEFORE DELETE OR TRUNCATE ON page EXECUTE FUNCTION lastgood_no_change();
CREATE TRIGGER delivery_guard BEFORE INSERT ON delivery FOR EACH ROW EXECUTE FUNCTION lastgood_delivery_guard();
CREATE TRIGGER delivery_change BEFORE UPDATE ON delivery FOR EACH ROW EXECUTE FUNCTION lastgood_delivery_change();
