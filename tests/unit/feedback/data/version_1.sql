BEGIN TRANSACTION;
CREATE TABLE annotator (
	id VARCHAR(32) NOT NULL, 
	name VARCHAR(80) NOT NULL, 
	role VARCHAR(16) NOT NULL, 
	token_hash VARCHAR(64), 
	active BOOLEAN NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	UNIQUE (name), 
	UNIQUE (token_hash)
);
INSERT INTO "annotator" VALUES('320c5e5762d59806','admin','admin','b7f3d9649222c0c9f7fb458a53a9c9ccb9e8e6e4dbdc8e18aa4ad7a48d2cbbc4',1,'2026-05-01 12:00:00.000000');
INSERT INTO "annotator" VALUES('ef0bfadf4b382380','Ann','annotator','7291d8431014815672ef40967a57b03dbe574da01add44a2c212441713c1603a',1,'2026-05-01 12:00:00.000000');
INSERT INTO "annotator" VALUES('851e0d9fcc64d427','Ben','reviewer','bea706582a2778129f281fb7446dc270651071fad02935accf4ffd8afc4832a3',1,'2026-05-01 12:00:00.000000');
CREATE TABLE audit (
	id INTEGER NOT NULL, 
	at DATETIME NOT NULL, 
	actor VARCHAR(64) NOT NULL, 
	action VARCHAR(40) NOT NULL, 
	target VARCHAR(200) NOT NULL, 
	detail TEXT NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "audit" VALUES(1,'2026-05-01 12:00:00.000000','command','account added','320c5e5762d59806','admin');
INSERT INTO "audit" VALUES(2,'2026-05-01 12:00:00.000000','command','account added','ef0bfadf4b382380','annotator');
INSERT INTO "audit" VALUES(3,'2026-05-01 12:00:00.000000','command','account added','851e0d9fcc64d427','reviewer');
CREATE TABLE event (
	id VARCHAR(64) NOT NULL, 
	response_id VARCHAR(64) NOT NULL, 
	kind VARCHAR(24) NOT NULL, 
	value JSON NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(response_id) REFERENCES logged_response (id)
);
CREATE TABLE item (
	id VARCHAR(64) NOT NULL, 
	prompt_id VARCHAR(200) NOT NULL, 
	messages JSON NOT NULL, 
	media_ids JSON NOT NULL, 
	task TEXT NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	extras JSON NOT NULL, 
	responses JSON NOT NULL, 
	question VARCHAR(16) NOT NULL, 
	overlap INTEGER NOT NULL, 
	priority DOUBLE NOT NULL, 
	position BIGINT NOT NULL, 
	round INTEGER NOT NULL, 
	gold JSON, 
	votes INTEGER NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
INSERT INTO "item" VALUES('item-0','07f7535b5dfa17917afed446b90e3fd9','[{"role": "user", "content": [{"type": "text", "text": "question 0"}]}]','[]','default','text','{}','[{"text": "good 0", "source": ""}, {"text": "bad 0", "source": ""}]','pair',2,0.0,1,0,NULL,0,'2026-05-01 12:00:00.000000');
INSERT INTO "item" VALUES('item-1','63f9cdbe149226e4cf60dc60a21ce135','[{"role": "user", "content": [{"type": "text", "text": "question 1"}]}]','[]','default','text','{}','[{"text": "good 1", "source": ""}, {"text": "bad 1", "source": ""}]','pair',2,1.0,2,0,NULL,2,'2026-05-01 12:00:00.000000');
INSERT INTO "item" VALUES('item-2','87476d6b21b99c5bd8d029283faeb3b0','[{"role": "user", "content": [{"type": "text", "text": "question 2"}]}]','[]','default','text','{}','[{"text": "good 2", "source": ""}, {"text": "bad 2", "source": ""}]','pair',2,2.0,3,0,NULL,2,'2026-05-01 12:00:00.000000');
INSERT INTO "item" VALUES('item-3','3c09f7ca1b28371f4ae10f6d2e68e77e','[{"role": "user", "content": [{"type": "text", "text": "question 3"}]}]','[]','default','text','{}','[{"text": "good 3", "source": ""}, {"text": "bad 3", "source": ""}]','pair',2,3.0,4,0,NULL,2,'2026-05-01 12:00:00.000000');
INSERT INTO "item" VALUES('rated','749e5d92bab51279f8a8c3f719da042f','[{"role": "user", "content": [{"type": "text", "text": "rate it"}]}]','[]','default','text','{}','[{"text": "one", "source": ""}]','rate',2,0.0,5,0,NULL,0,'2026-05-01 12:00:00.000000');
CREATE TABLE lease (
	item_id VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	order_shown JSON NOT NULL, 
	expires DATETIME NOT NULL, 
	PRIMARY KEY (item_id, annotator_id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotator (id)
);
INSERT INTO "lease" VALUES('item-0','ef0bfadf4b382380','[0, 1]','2026-05-01 12:15:00.000000');
CREATE TABLE logged_response (
	id VARCHAR(64) NOT NULL, 
	prompt_id VARCHAR(200) NOT NULL, 
	messages JSON NOT NULL, 
	media_ids JSON NOT NULL, 
	task TEXT NOT NULL, 
	modality VARCHAR(16) NOT NULL, 
	extras JSON NOT NULL, 
	text TEXT NOT NULL, 
	source TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE media_file (
	media_id VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	mime VARCHAR(40) NOT NULL, 
	size BIGINT NOT NULL, 
	PRIMARY KEY (media_id)
);
CREATE TABLE out_message (
	id VARCHAR(32) NOT NULL, 
	event VARCHAR(40) NOT NULL, 
	body JSON NOT NULL, 
	created DATETIME NOT NULL, 
	due DATETIME NOT NULL, 
	attempts INTEGER NOT NULL, 
	PRIMARY KEY (id)
);
CREATE TABLE review (
	item_id VARCHAR(64) NOT NULL, 
	reviewer_id VARCHAR(32) NOT NULL, 
	question VARCHAR(16) NOT NULL, 
	answer JSON NOT NULL, 
	order_shown JSON NOT NULL, 
	milliseconds BIGINT NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (item_id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(reviewer_id) REFERENCES annotator (id)
);
CREATE TABLE schema_version (
	version INTEGER NOT NULL, 
	PRIMARY KEY (version)
);
INSERT INTO "schema_version" VALUES(1);
CREATE TABLE skip (
	item_id VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	reason VARCHAR(40) NOT NULL, 
	comment TEXT NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (item_id, annotator_id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotator (id)
);
CREATE TABLE suggestion (
	item_id VARCHAR(64) NOT NULL, 
	source TEXT NOT NULL, 
	answer JSON NOT NULL, 
	created DATETIME NOT NULL, 
	PRIMARY KEY (item_id), 
	FOREIGN KEY(item_id) REFERENCES item (id)
);
INSERT INTO "suggestion" VALUES('rated','judge','{"critique": "", "comment": "", "ratings": [{"helpful": 3, "grounded": null, "safe": null, "fluent": null}]}','2026-05-01 12:00:00.000000');
CREATE TABLE suggestion_seen (
	item_id VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	at DATETIME NOT NULL, 
	PRIMARY KEY (item_id, annotator_id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotator (id)
);
CREATE TABLE vote (
	id VARCHAR(36) NOT NULL, 
	item_id VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	question VARCHAR(16) NOT NULL, 
	answer JSON NOT NULL, 
	order_shown JSON NOT NULL, 
	milliseconds BIGINT NOT NULL, 
	created DATETIME NOT NULL, 
	undone BOOLEAN NOT NULL, 
	PRIMARY KEY (id), 
	FOREIGN KEY(item_id) REFERENCES item (id), 
	FOREIGN KEY(annotator_id) REFERENCES annotator (id)
);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-000000000001','item-3','ef0bfadf4b382380','pair','{"critique": "", "comment": "", "choice": "left"}','[0, 1]',1000,'2026-05-01 12:00:00.000000',0);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-000000000002','item-2','ef0bfadf4b382380','pair','{"critique": "", "comment": "", "choice": "right"}','[1, 0]',1000,'2026-05-01 12:00:00.000000',0);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-000000000003','item-1','ef0bfadf4b382380','pair','{"critique": "", "comment": "", "choice": "left"}','[0, 1]',1000,'2026-05-01 12:00:00.000000',0);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-00000000000b','item-3','851e0d9fcc64d427','pair','{"critique": "", "comment": "", "choice": "right"}','[1, 0]',1000,'2026-05-01 12:00:00.000000',0);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-00000000000c','item-2','851e0d9fcc64d427','pair','{"critique": "", "comment": "", "choice": "left"}','[0, 1]',1000,'2026-05-01 12:00:00.000000',0);
INSERT INTO "vote" VALUES('00000000-0000-4000-8000-00000000000d','item-1','851e0d9fcc64d427','pair','{"critique": "", "comment": "", "choice": "left"}','[0, 1]',1000,'2026-05-01 12:00:00.000000',0);
CREATE TABLE web_session (
	cookie_hash VARCHAR(64) NOT NULL, 
	annotator_id VARCHAR(32) NOT NULL, 
	expires DATETIME NOT NULL, 
	PRIMARY KEY (cookie_hash), 
	FOREIGN KEY(annotator_id) REFERENCES annotator (id)
);
CREATE INDEX item_open ON item (priority DESC, position) WHERE votes < overlap;
CREATE INDEX ix_item_prompt_id ON item (prompt_id);
CREATE INDEX ix_logged_response_created ON logged_response (created);
CREATE INDEX ix_out_message_due ON out_message (due);
CREATE INDEX audit_action ON audit (action, at);
CREATE INDEX ix_web_session_annotator_id ON web_session (annotator_id);
CREATE INDEX ix_suggestion_seen_annotator_id ON suggestion_seen (annotator_id);
CREATE INDEX ix_lease_annotator_id ON lease (annotator_id);
CREATE INDEX ix_vote_created ON vote (created);
CREATE UNIQUE INDEX vote_in_force ON vote (item_id, annotator_id) WHERE undone = 0;
CREATE INDEX ix_vote_item_id ON vote (item_id);
CREATE INDEX vote_by_annotator ON vote (annotator_id, created);
CREATE INDEX ix_review_reviewer_id ON review (reviewer_id);
CREATE INDEX ix_event_created ON event (created);
CREATE INDEX ix_event_response_id ON event (response_id);
COMMIT;
