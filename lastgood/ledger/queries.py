"""Every query of the ledger by name, for both engines: parameters are written `:name`, see `dialect`.

What does not belong here: the schema (`migrations/`), and anything that one engine does differently (`dialect`).
"""

from __future__ import annotations

SCHEMA_VERSION = "SELECT version, min_reader FROM schema_version ORDER BY version DESC LIMIT 1"
ADD_SCHEMA_VERSION = "INSERT INTO schema_version (version, min_reader) VALUES (:version, :min_reader)"

SERVICES = "SELECT DISTINCT service FROM bundle ORDER BY service"

_BUNDLE = "id, service, manifest, provenance, registered_at"
ADD_BUNDLE = f"INSERT INTO bundle ({_BUNDLE}) VALUES (:id, :service, :manifest, :provenance, :registered_at)"
BUNDLE = f"SELECT {_BUNDLE} FROM bundle WHERE id = :id"
BUNDLES = f"SELECT {_BUNDLE} FROM bundle WHERE service = :service ORDER BY registered_at DESC, id DESC LIMIT :limit"
ALL_BUNDLES = f"SELECT {_BUNDLE} FROM bundle WHERE service = :service"
BUNDLE_IDS = "SELECT id FROM bundle WHERE service = :service AND id >= :low AND id < :high ORDER BY id LIMIT :limit"

_REVISION = "service, number, state, stable, candidate, previous, verb, actor, reason, evidence, operation, at"
ADD_REVISION = (
    f"INSERT INTO revision ({_REVISION}) VALUES (:service, :number, :state, :stable, :candidate, :previous, "
    ":verb, :actor, :reason, :evidence, :operation, :at)"
)
NEWEST = "SELECT max(number) AS number FROM revision WHERE service = :service"
REVISION = f"SELECT {_REVISION} FROM revision WHERE service = :service AND number = :number"
NEWEST_REVISION = f"SELECT {_REVISION} FROM revision WHERE service = :service ORDER BY number DESC LIMIT 1"
REVISION_OF_OPERATION = f"SELECT {_REVISION} FROM revision WHERE service = :service AND operation = :operation"
REVISION_AT = f"SELECT {_REVISION} FROM revision WHERE service = :service AND at <= :at ORDER BY at DESC, number DESC LIMIT 1"
CLOCKS_FROM = (
    "SELECT CASE WHEN evidence LIKE :clock THEN 1 ELSE 0 END AS differed FROM revision "
    "WHERE service = :service AND number >= :first ORDER BY number LIMIT :limit"
)
TIMES = (
    "SELECT number, at, CASE WHEN evidence LIKE :clock THEN evidence ELSE '{}' END AS evidence "
    "FROM revision WHERE service = :service ORDER BY number"
)
HISTORY = f"SELECT {_REVISION} FROM revision WHERE service = :service AND number < :before ORDER BY number DESC LIMIT :limit"
REVISION_PAGE = f"SELECT {_REVISION} FROM revision WHERE service = :service AND number > :after ORDER BY number LIMIT :limit"
WAS_STABLE = "SELECT 1 AS one FROM revision WHERE service = :service AND stable = :bundle LIMIT 1"

ADD_MARK = "INSERT INTO mark (service, bundle, revision, kind, reason) VALUES (:service, :bundle, :revision, :kind, :reason)"
_MARK = "bundle, revision, kind, reason"
# Sorted by the reader: asked for an order, SQLite reads all marks of the service by the index that has it.
MARKS_OF = f"SELECT {_MARK} FROM mark WHERE service = :service AND bundle IN ({{values}})"
MARKS_WITH = f"SELECT {_MARK} FROM mark WHERE service = :service AND revision BETWEEN :first AND :last ORDER BY revision, bundle, kind"
STRAY_MARKS = (
    "SELECT m.bundle, m.revision, m.kind, m.reason FROM mark m LEFT JOIN revision r ON r.service = m.service AND r.number = m.revision "
    "WHERE m.service = :service AND r.number IS NULL ORDER BY m.revision, m.bundle, m.kind"
)

_EVALUATION = "bundle, seq, kind, report, at"
ADD_EVALUATION = f"INSERT INTO evaluation ({_EVALUATION}) VALUES (:bundle, :seq, :kind, :report, :at)"
NEWEST_EVALUATION = "SELECT max(seq) AS seq FROM evaluation WHERE bundle = :bundle"
EVALUATIONS = f"SELECT {_EVALUATION} FROM evaluation WHERE bundle = :bundle ORDER BY seq"
ALL_EVALUATIONS = (
    "SELECT e.bundle, e.seq, e.kind, e.report, e.at FROM evaluation e JOIN bundle b ON b.id = e.bundle "
    "WHERE b.service = :service ORDER BY e.bundle, e.seq"
)

_AUDIT = "service, seq, kind, subject, body, actor, at, prev_hash, hash"
ADD_AUDIT = f"INSERT INTO audit ({_AUDIT}) VALUES (:service, :seq, :kind, :subject, :body, :actor, :at, :prev_hash, :hash)"
AUDIT_HEAD = "SELECT seq, hash FROM audit WHERE service = :service ORDER BY seq DESC LIMIT 1"
AUDIT_ENTRY = "SELECT seq, hash FROM audit WHERE service = :service AND seq = :seq"
NOTES = "SELECT body FROM audit WHERE service = :service AND kind = 'note' AND subject = :subject ORDER BY seq"
AUDIT_HASHES = "SELECT subject, hash FROM audit WHERE service = :service AND kind = :kind AND subject IN ({values})"
AUDIT_PAGE = f"SELECT {_AUDIT} FROM audit WHERE service = :service AND seq > :after ORDER BY seq LIMIT :limit"

LEASE = "SELECT holder, until, token FROM lease WHERE name = :name"
ADD_LEASE = "INSERT INTO lease (name, holder, until, token) VALUES (:name, :holder, :until, 1)"
TAKE_LEASE = "UPDATE lease SET holder = :holder, until = :until, token = :token WHERE name = :name"
END_LEASE = "UPDATE lease SET until = 0 WHERE name = :name AND holder = :holder"

# Changes nothing, and keeps the row from changing hands until the transaction is over.
HOLD_LEASE = "UPDATE lease SET until = until WHERE name = :name AND holder = :holder AND token = :token RETURNING token"

_READINESS = "service, arm, host, ready, failures, since, seen_at, detail"
READINESS = f"SELECT {_READINESS} FROM readiness WHERE service = :service ORDER BY arm, host"
ADD_READINESS = f"INSERT INTO readiness ({_READINESS}) VALUES (:service, :arm, :host, :ready, :failures, :since, :seen_at, :detail)"
CHANGE_READINESS = (
    "UPDATE readiness SET ready = :ready, failures = :failures, since = :since, seen_at = :seen_at, detail = :detail "
    "WHERE service = :service AND arm = :arm AND host = :host"
)
DROP_READINESS = "DELETE FROM readiness WHERE service = :service AND arm = :arm AND host = :host"

NEWEST_MEASUREMENT = "SELECT max(seq) AS seq FROM measurement WHERE service = :service AND analysis = :analysis"
ADD_MEASUREMENT = "INSERT INTO measurement (service, analysis, seq, body, at) VALUES (:service, :analysis, :seq, :body, :at)"
MEASUREMENTS = (
    "SELECT seq, body, at FROM measurement WHERE service = :service AND analysis = :analysis AND seq > :after ORDER BY seq LIMIT :limit"
)
FORGET_MEASUREMENTS = (
    "DELETE FROM measurement WHERE service = :service AND (analysis, seq) IN "
    "(SELECT analysis, seq FROM measurement WHERE service = :service AND at < :before ORDER BY at LIMIT :limit) RETURNING seq"
)

_PAGE = "service, revision, key, severity, resolves, summary, body, at"
ADD_PAGE = f"INSERT INTO page ({_PAGE}) VALUES (:service, :revision, :key, :severity, :resolves, :summary, :body, :at)"
PAGE = "SELECT 1 AS one FROM page WHERE service = :service AND revision = :revision AND key = :key"
PAGES = f"SELECT {_PAGE}, delivered_at FROM page WHERE service = :service ORDER BY revision DESC, key LIMIT :limit"
_SAME_PAGE = "{0}.service = {1}.service AND {0}.revision = {1}.revision AND {0}.key = {1}.key"
# A page waits for the earlier ones of its key, or one that resolves could overtake what it closes; so does one with "-over"
# behind its key for the page without (`paging.message.OVER`), which may be of the same revision. Asked for the plain
# service, SQLite would read all its pages by the primary key instead of the few that are open.
DUE_PAGES = (
    f"SELECT {', '.join(f'p.{name}' for name in _PAGE.split(', '))}, p.delivered_at, d.tries, d.next_at, d.error FROM page p "
    f"LEFT JOIN delivery d ON {_SAME_PAGE.format('d', 'p')} AND d.channel = :channel "
    "WHERE p.delivered_at IS NULL AND d.delivered_at IS NULL AND (d.tries IS NULL OR d.next_at <= :now OR d.next_at > :latest) "
    f"AND NOT EXISTS (SELECT 1 FROM page e LEFT JOIN delivery x ON {_SAME_PAGE.format('x', 'e')} AND x.channel = :channel "
    "WHERE e.service || '' = p.service AND e.delivered_at IS NULL AND x.delivered_at IS NULL AND "
    "((e.key = p.key AND e.revision < p.revision) OR (p.resolves = 1 AND e.key || '-over' = p.key AND e.revision <= p.revision))) "
    "ORDER BY coalesce(d.tries, 0), p.at, p.service, p.revision, p.key LIMIT :limit"
)
SETTLED_PAGES = (
    "SELECT p.service, p.revision, p.key FROM page p WHERE p.delivered_at IS NULL AND "
    f"(SELECT count(*) FROM delivery d WHERE {_SAME_PAGE.format('d', 'p')} AND d.delivered_at IS NOT NULL AND d.channel IN ({{values}})) "
    "= :wanted LIMIT :limit"
)
SETTLE_PAGE = (
    "UPDATE page SET delivered_at = :now WHERE service = :service AND revision = :revision AND key = :key AND delivered_at IS NULL"
)

DELIVERY = (
    "SELECT tries, delivered_at FROM delivery WHERE service = :service AND revision = :revision AND key = :key AND channel = :channel"
)
DELIVERIES = (
    "SELECT revision, key, channel, tries, next_at, delivered_at, error FROM delivery "
    "WHERE service = :service AND revision BETWEEN :first AND :last ORDER BY revision, key, channel"
)
ADD_DELIVERY = (
    "INSERT INTO delivery (service, revision, key, channel, tries, next_at, delivered_at, error) "
    "VALUES (:service, :revision, :key, :channel, :tries, :next_at, :delivered_at, :error)"
)
CHANGE_DELIVERY = (
    "UPDATE delivery SET tries = :tries, next_at = :next_at, delivered_at = :delivered_at, error = :error "
    "WHERE service = :service AND revision = :revision AND key = :key AND channel = :channel"
)
