CREATE TABLE public.annotator (
    id character varying(32) NOT NULL,
    name character varying(80) NOT NULL,
    role character varying(16) NOT NULL,
    token_hash character varying(64),
    active boolean NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.audit (
    id integer NOT NULL,
    at timestamp with time zone NOT NULL,
    actor character varying(64) NOT NULL,
    action character varying(40) NOT NULL,
    target character varying(200) NOT NULL,
    detail text NOT NULL
);
CREATE SEQUENCE public.audit_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.audit_id_seq OWNED BY public.audit.id;
CREATE TABLE public.event (
    id character varying(64) NOT NULL,
    response_id character varying(64) NOT NULL,
    kind character varying(24) NOT NULL,
    value json NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.item (
    id character varying(64) NOT NULL,
    prompt_id character varying(200) NOT NULL,
    messages json NOT NULL,
    media_ids json NOT NULL,
    task text NOT NULL,
    modality character varying(16) NOT NULL,
    extras json NOT NULL,
    responses json NOT NULL,
    question character varying(16) NOT NULL,
    overlap integer NOT NULL,
    priority double precision NOT NULL,
    "position" bigint NOT NULL,
    round integer NOT NULL,
    gold json,
    votes integer NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.lease (
    item_id character varying(64) NOT NULL,
    annotator_id character varying(32) NOT NULL,
    order_shown json NOT NULL,
    expires timestamp with time zone NOT NULL
);
CREATE TABLE public.logged_response (
    id character varying(64) NOT NULL,
    prompt_id character varying(200) NOT NULL,
    messages json NOT NULL,
    media_ids json NOT NULL,
    task text NOT NULL,
    modality character varying(16) NOT NULL,
    extras json NOT NULL,
    text text NOT NULL,
    source text NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.media_file (
    media_id character varying(64) NOT NULL,
    kind character varying(16) NOT NULL,
    mime character varying(40) NOT NULL,
    size bigint NOT NULL
);
CREATE TABLE public.out_message (
    id character varying(32) NOT NULL,
    event character varying(40) NOT NULL,
    body json NOT NULL,
    created timestamp with time zone NOT NULL,
    due timestamp with time zone NOT NULL,
    attempts integer NOT NULL
);
CREATE TABLE public.review (
    item_id character varying(64) NOT NULL,
    reviewer_id character varying(32) NOT NULL,
    question character varying(16) NOT NULL,
    answer json NOT NULL,
    order_shown json NOT NULL,
    milliseconds bigint NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.schema_version (
    version integer NOT NULL
);
CREATE SEQUENCE public.schema_version_version_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.schema_version_version_seq OWNED BY public.schema_version.version;
CREATE TABLE public.skip (
    item_id character varying(64) NOT NULL,
    annotator_id character varying(32) NOT NULL,
    reason character varying(40) NOT NULL,
    comment text NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.suggestion (
    item_id character varying(64) NOT NULL,
    source text NOT NULL,
    answer json NOT NULL,
    created timestamp with time zone NOT NULL
);
CREATE TABLE public.suggestion_seen (
    item_id character varying(64) NOT NULL,
    annotator_id character varying(32) NOT NULL,
    at timestamp with time zone NOT NULL
);
CREATE TABLE public.vote (
    id character varying(36) NOT NULL,
    item_id character varying(64) NOT NULL,
    annotator_id character varying(32) NOT NULL,
    question character varying(16) NOT NULL,
    answer json NOT NULL,
    order_shown json NOT NULL,
    milliseconds bigint NOT NULL,
    created timestamp with time zone NOT NULL,
    undone boolean NOT NULL
);
CREATE TABLE public.web_session (
    cookie_hash character varying(64) NOT NULL,
    annotator_id character varying(32) NOT NULL,
    expires timestamp with time zone NOT NULL
);
ALTER TABLE ONLY public.audit ALTER COLUMN id SET DEFAULT nextval('public.audit_id_seq'::regclass);
ALTER TABLE ONLY public.schema_version ALTER COLUMN version SET DEFAULT nextval('public.schema_version_version_seq'::regclass);
INSERT INTO public.annotator VALUES ('320c5e5762d59806', 'admin', 'admin', 'b7f3d9649222c0c9f7fb458a53a9c9ccb9e8e6e4dbdc8e18aa4ad7a48d2cbbc4', true, '2026-05-01 12:00:00+00');
INSERT INTO public.annotator VALUES ('851e0d9fcc64d427', 'Ben', 'reviewer', 'bea706582a2778129f281fb7446dc270651071fad02935accf4ffd8afc4832a3', true, '2026-05-01 12:00:00+00');
INSERT INTO public.annotator VALUES ('ef0bfadf4b382380', 'Ann', 'annotator', '7291d8431014815672ef40967a57b03dbe574da01add44a2c212441713c1603a', true, '2026-05-01 12:00:00+00');
INSERT INTO public.audit VALUES (1, '2026-05-01 12:00:00+00', 'command', 'account added', '320c5e5762d59806', 'admin');
INSERT INTO public.audit VALUES (2, '2026-05-01 12:00:00+00', 'command', 'account added', 'ef0bfadf4b382380', 'annotator');
INSERT INTO public.audit VALUES (3, '2026-05-01 12:00:00+00', 'command', 'account added', '851e0d9fcc64d427', 'reviewer');
INSERT INTO public.item VALUES ('item-0', '07f7535b5dfa17917afed446b90e3fd9', '[{"role": "user", "content": [{"type": "text", "text": "question 0"}]}]', '[]', 'default', 'text', '{}', '[{"text": "good 0", "source": ""}, {"text": "bad 0", "source": ""}]', 'pair', 2, 0, 1, 0, NULL, 0, '2026-05-01 12:00:00+00');
INSERT INTO public.item VALUES ('item-1', '63f9cdbe149226e4cf60dc60a21ce135', '[{"role": "user", "content": [{"type": "text", "text": "question 1"}]}]', '[]', 'default', 'text', '{}', '[{"text": "good 1", "source": ""}, {"text": "bad 1", "source": ""}]', 'pair', 2, 1, 2, 0, NULL, 2, '2026-05-01 12:00:00+00');
INSERT INTO public.item VALUES ('item-2', '87476d6b21b99c5bd8d029283faeb3b0', '[{"role": "user", "content": [{"type": "text", "text": "question 2"}]}]', '[]', 'default', 'text', '{}', '[{"text": "good 2", "source": ""}, {"text": "bad 2", "source": ""}]', 'pair', 2, 2, 3, 0, NULL, 2, '2026-05-01 12:00:00+00');
INSERT INTO public.item VALUES ('item-3', '3c09f7ca1b28371f4ae10f6d2e68e77e', '[{"role": "user", "content": [{"type": "text", "text": "question 3"}]}]', '[]', 'default', 'text', '{}', '[{"text": "good 3", "source": ""}, {"text": "bad 3", "source": ""}]', 'pair', 2, 3, 4, 0, NULL, 2, '2026-05-01 12:00:00+00');
INSERT INTO public.item VALUES ('rated', '749e5d92bab51279f8a8c3f719da042f', '[{"role": "user", "content": [{"type": "text", "text": "rate it"}]}]', '[]', 'default', 'text', '{}', '[{"text": "one", "source": ""}]', 'rate', 2, 0, 5, 0, NULL, 0, '2026-05-01 12:00:00+00');
INSERT INTO public.lease VALUES ('item-0', 'ef0bfadf4b382380', '[0, 1]', '2026-05-01 12:15:00+00');
INSERT INTO public.schema_version VALUES (1);
INSERT INTO public.suggestion VALUES ('rated', 'judge', '{"critique": "", "comment": "", "ratings": [{"helpful": 3, "grounded": null, "safe": null, "fluent": null}]}', '2026-05-01 12:00:00+00');
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-000000000001', 'item-3', 'ef0bfadf4b382380', 'pair', '{"critique": "", "comment": "", "choice": "left"}', '[0, 1]', 1000, '2026-05-01 12:00:00+00', false);
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-000000000002', 'item-2', 'ef0bfadf4b382380', 'pair', '{"critique": "", "comment": "", "choice": "right"}', '[1, 0]', 1000, '2026-05-01 12:00:00+00', false);
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-000000000003', 'item-1', 'ef0bfadf4b382380', 'pair', '{"critique": "", "comment": "", "choice": "left"}', '[0, 1]', 1000, '2026-05-01 12:00:00+00', false);
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-00000000000b', 'item-3', '851e0d9fcc64d427', 'pair', '{"critique": "", "comment": "", "choice": "right"}', '[1, 0]', 1000, '2026-05-01 12:00:00+00', false);
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-00000000000c', 'item-2', '851e0d9fcc64d427', 'pair', '{"critique": "", "comment": "", "choice": "left"}', '[0, 1]', 1000, '2026-05-01 12:00:00+00', false);
INSERT INTO public.vote VALUES ('00000000-0000-4000-8000-00000000000d', 'item-1', '851e0d9fcc64d427', 'pair', '{"critique": "", "comment": "", "choice": "left"}', '[0, 1]', 1000, '2026-05-01 12:00:00+00', false);
SELECT pg_catalog.setval('public.audit_id_seq', 3, true);
SELECT pg_catalog.setval('public.schema_version_version_seq', 1, false);
ALTER TABLE ONLY public.annotator
    ADD CONSTRAINT annotator_name_key UNIQUE (name);
ALTER TABLE ONLY public.annotator
    ADD CONSTRAINT annotator_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.annotator
    ADD CONSTRAINT annotator_token_hash_key UNIQUE (token_hash);
ALTER TABLE ONLY public.audit
    ADD CONSTRAINT audit_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.item
    ADD CONSTRAINT item_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (item_id, annotator_id);
ALTER TABLE ONLY public.logged_response
    ADD CONSTRAINT logged_response_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.media_file
    ADD CONSTRAINT media_file_pkey PRIMARY KEY (media_id);
ALTER TABLE ONLY public.out_message
    ADD CONSTRAINT out_message_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.review
    ADD CONSTRAINT review_pkey PRIMARY KEY (item_id);
ALTER TABLE ONLY public.schema_version
    ADD CONSTRAINT schema_version_pkey PRIMARY KEY (version);
ALTER TABLE ONLY public.skip
    ADD CONSTRAINT skip_pkey PRIMARY KEY (item_id, annotator_id);
ALTER TABLE ONLY public.suggestion
    ADD CONSTRAINT suggestion_pkey PRIMARY KEY (item_id);
ALTER TABLE ONLY public.suggestion_seen
    ADD CONSTRAINT suggestion_seen_pkey PRIMARY KEY (item_id, annotator_id);
ALTER TABLE ONLY public.vote
    ADD CONSTRAINT vote_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.web_session
    ADD CONSTRAINT web_session_pkey PRIMARY KEY (cookie_hash);
CREATE INDEX audit_action ON public.audit USING btree (action, at);
CREATE INDEX item_open ON public.item USING btree (priority DESC, "position") WHERE (votes < overlap);
CREATE INDEX ix_event_created ON public.event USING btree (created);
CREATE INDEX ix_event_response_id ON public.event USING btree (response_id);
CREATE INDEX ix_item_prompt_id ON public.item USING btree (prompt_id);
CREATE INDEX ix_lease_annotator_id ON public.lease USING btree (annotator_id);
CREATE INDEX ix_logged_response_created ON public.logged_response USING btree (created);
CREATE INDEX ix_out_message_due ON public.out_message USING btree (due);
CREATE INDEX ix_review_reviewer_id ON public.review USING btree (reviewer_id);
CREATE INDEX ix_suggestion_seen_annotator_id ON public.suggestion_seen USING btree (annotator_id);
CREATE INDEX ix_vote_created ON public.vote USING btree (created);
CREATE INDEX ix_vote_item_id ON public.vote USING btree (item_id);
CREATE INDEX ix_web_session_annotator_id ON public.web_session USING btree (annotator_id);
CREATE INDEX vote_by_annotator ON public.vote USING btree (annotator_id, created);
CREATE UNIQUE INDEX vote_in_force ON public.vote USING btree (item_id, annotator_id) WHERE (NOT undone);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_response_id_fkey FOREIGN KEY (response_id) REFERENCES public.logged_response(id);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_annotator_id_fkey FOREIGN KEY (annotator_id) REFERENCES public.annotator(id);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.review
    ADD CONSTRAINT review_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.review
    ADD CONSTRAINT review_reviewer_id_fkey FOREIGN KEY (reviewer_id) REFERENCES public.annotator(id);
ALTER TABLE ONLY public.skip
    ADD CONSTRAINT skip_annotator_id_fkey FOREIGN KEY (annotator_id) REFERENCES public.annotator(id);
ALTER TABLE ONLY public.skip
    ADD CONSTRAINT skip_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.suggestion
    ADD CONSTRAINT suggestion_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.suggestion_seen
    ADD CONSTRAINT suggestion_seen_annotator_id_fkey FOREIGN KEY (annotator_id) REFERENCES public.annotator(id);
ALTER TABLE ONLY public.suggestion_seen
    ADD CONSTRAINT suggestion_seen_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.vote
    ADD CONSTRAINT vote_annotator_id_fkey FOREIGN KEY (annotator_id) REFERENCES public.annotator(id);
ALTER TABLE ONLY public.vote
    ADD CONSTRAINT vote_item_id_fkey FOREIGN KEY (item_id) REFERENCES public.item(id);
ALTER TABLE ONLY public.web_session
    ADD CONSTRAINT web_session_annotator_id_fkey FOREIGN KEY (annotator_id) REFERENCES public.annotator(id);
