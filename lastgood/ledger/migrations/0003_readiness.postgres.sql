-- min_reader: 2
-- What each host says of the workers that it runs. Only the host itself writes its rows, when something has changed and now
-- and then as a sign of life; whoever decides reads them all. No history: a row is replaced, and goes with its worker.

SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

CREATE TABLE readiness (
    service TEXT COLLATE "C" NOT NULL CHECK (service <> ''),
    arm TEXT COLLATE "C" NOT NULL CHECK (arm <> ''),
    host TEXT COLLATE "C" NOT NULL CHECK (host <> ''),
    ready INTEGER NOT NULL CHECK (ready IN (0, 1)),
    failures INTEGER NOT NULL CHECK (failures >= 0),
    since DOUBLE PRECISION NOT NULL CHECK (since >= 0 AND since < 1e12),
    seen_at DOUBLE PRECISION NOT NULL CHECK (seen_at >= 0 AND seen_at < 1e12),
    detail TEXT NOT NULL,
    PRIMARY KEY (service, arm, host)
);

CREATE FUNCTION lastgood_readiness_guard() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM readiness WHERE service = NEW.service AND arm = NEW.arm AND host = NEW.host) THEN
        PERFORM lastgood_refuse('this host has a row for this arm already');
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION lastgood_readiness_change() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF (NEW.service, NEW.arm, NEW.host) IS DISTINCT FROM (OLD.service, OLD.arm, OLD.host) THEN
        PERFORM lastgood_refuse('what a host says of an arm keeps its service, arm and host');
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER readiness_guard BEFORE INSERT ON readiness FOR EACH ROW EXECUTE FUNCTION lastgood_readiness_guard();
CREATE TRIGGER readiness_change BEFORE UPDATE ON readiness FOR EACH ROW EXECUTE FUNCTION lastgood_readiness_change();
