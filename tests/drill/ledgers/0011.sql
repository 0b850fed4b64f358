BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES ('0011');
CREATE TABLE conflicts (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	transfer_syntax_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	file TEXT DEFAULT '' NOT NULL, 
	calling_ae TEXT DEFAULT '' NOT NULL, 
	calling_host TEXT DEFAULT '' NOT NULL, 
	received_at FLOAT DEFAULT '0' NOT NULL, 
	purged_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_conflicts PRIMARY KEY (id), 
	CONSTRAINT uq_conflicts_sop_instance_uid_sha256_transfer_syntax_uid UNIQUE (sop_instance_uid, sha256, transfer_syntax_uid)
);
INSERT INTO "conflicts" VALUES (1, '1.2.3.1', '1.2.840.10008.1.2.1', 'ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff', 101, 'conflicts/ff/1.dcm', 'MODALITY', '10.0.0.9', 1800000012.0, 0.0);
CREATE TABLE counters (
	study_instance_uid VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	last INTEGER NOT NULL, 
	CONSTRAINT pk_counters PRIMARY KEY (study_instance_uid, model)
);
CREATE TABLE destinations (
	name VARCHAR(64) NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	held_until FLOAT DEFAULT '0' NOT NULL, 
	changed_at FLOAT DEFAULT '0' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_destinations PRIMARY KEY (name)
);
INSERT INTO "destinations" VALUES ('archive', 1, 1800000095.0, 1800000051.0, 'archive gives no answer');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	job VARCHAR(32) DEFAULT '' NOT NULL, 
	at FLOAT NOT NULL, 
	stage VARCHAR(32) NOT NULL, 
	ms FLOAT, 
	detail TEXT DEFAULT '' NOT NULL, instance INTEGER, is_typed INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id)
);
INSERT INTO "events" VALUES (1, '', '', 1800000001.0, 'received', NULL, '', 1, 1);
INSERT INTO "events" VALUES (2, '', 'a137ee1i', 1800000001.0, 'routed', NULL, '', 1, 1);
INSERT INTO "events" VALUES (3, '', '', 1800000002.0, 'received', NULL, '', 2, 1);
INSERT INTO "events" VALUES (4, '', 'v0rjb3pa', 1800000002.0, 'routed', NULL, '', 2, 1);
INSERT INTO "events" VALUES (5, '', '', 1800000003.0, 'received', NULL, '', 3, 1);
INSERT INTO "events" VALUES (6, '', 'fnnbtq5k', 1800000003.0, 'routed', NULL, '', 3, 1);
INSERT INTO "events" VALUES (7, '', '', 1800000004.0, 'received', NULL, '', 4, 1);
INSERT INTO "events" VALUES (8, '', 'o02pk78k', 1800000004.0, 'routed', NULL, '', 4, 1);
INSERT INTO "events" VALUES (9, '', '', 1800000005.0, 'received', NULL, '', 5, 1);
INSERT INTO "events" VALUES (10, '', 'oo55n1fr', 1800000005.0, 'routed', NULL, '', 5, 1);
INSERT INTO "events" VALUES (11, '', '', 1800000006.0, 'received', NULL, '', 6, 1);
INSERT INTO "events" VALUES (12, '', 'm160dkq1', 1800000006.0, 'routed', NULL, '', 6, 1);
INSERT INTO "events" VALUES (13, '', '', 1800000007.0, 'received', NULL, '', 7, 1);
INSERT INTO "events" VALUES (14, '', 'epdc5ai1', 1800000007.0, 'routed', NULL, '', 7, 1);
INSERT INTO "events" VALUES (15, '', '', 1800000008.0, 'received', NULL, '', 8, 1);
INSERT INTO "events" VALUES (16, '', 'dpe3loab', 1800000008.0, 'routed', NULL, '', 8, 1);
INSERT INTO "events" VALUES (17, '', '', 1800000009.0, 'received', NULL, '', 9, 1);
INSERT INTO "events" VALUES (18, '', '9dmra8fg', 1800000009.0, 'routed', NULL, '', 9, 1);
INSERT INTO "events" VALUES (19, '', '', 1800000010.0, 'received', NULL, '', 10, 1);
INSERT INTO "events" VALUES (20, '', '', 1800000010.0, 'ignored', NULL, '{"r":"no rule matched"}', 10, 1);
INSERT INTO "events" VALUES (21, '', '', 1800000011.0, 'received', NULL, '', 11, 1);
INSERT INTO "events" VALUES (22, '', 'gnser2l4', 1800000011.0, 'routed', NULL, '', 11, 1);
INSERT INTO "events" VALUES (23, '', '', 1800000012.0, 'conflict', NULL, '{"calling_ae":"MODALITY","calling_host":"10.0.0.9","r":"same SOP Instance UID with other content; kept apart, not analysed: it differs in Patient ID"}', 1, 1);
INSERT INTO "events" VALUES (24, '', 'a137ee1i', 1800000020.0, 'queued', NULL, '', 1, 1);
INSERT INTO "events" VALUES (25, '', 'v0rjb3pa', 1800000020.0, 'queued', NULL, '', 2, 1);
INSERT INTO "events" VALUES (26, '', 'fnnbtq5k', 1800000020.0, 'queued', NULL, '', 3, 1);
INSERT INTO "events" VALUES (27, '', 'o02pk78k', 1800000020.0, 'queued', NULL, '', 4, 1);
INSERT INTO "events" VALUES (28, '', 'oo55n1fr', 1800000020.0, 'queued', NULL, '', 5, 1);
INSERT INTO "events" VALUES (29, '', 'm160dkq1', 1800000020.0, 'queued', NULL, '', 6, 1);
INSERT INTO "events" VALUES (30, '', 'epdc5ai1', 1800000020.0, 'queued', NULL, '', 7, 1);
INSERT INTO "events" VALUES (31, '', 'dpe3loab', 1800000020.0, 'queued', NULL, '', 8, 1);
INSERT INTO "events" VALUES (32, '', '9dmra8fg', 1800000020.0, 'queued', NULL, '', 9, 1);
INSERT INTO "events" VALUES (33, '', 'fnnbtq5k', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 3, 1);
INSERT INTO "events" VALUES (34, '', 'o02pk78k', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 4, 1);
INSERT INTO "events" VALUES (35, '', 'oo55n1fr', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 5, 1);
INSERT INTO "events" VALUES (36, '', 'm160dkq1', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 6, 1);
INSERT INTO "events" VALUES (37, '', 'epdc5ai1', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 7, 1);
INSERT INTO "events" VALUES (38, '', 'dpe3loab', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 8, 1);
INSERT INTO "events" VALUES (39, '', '9dmra8fg', 1800000021.0, 'claimed', NULL, '{"n":1,"w":"old-worker:1"}', 9, 1);
INSERT INTO "events" VALUES (40, '', 'o02pk78k', 1800000030.0, 'reported', NULL, '', 4, 1);
INSERT INTO "events" VALUES (41, '', 'oo55n1fr', 1800000030.0, 'reported', NULL, '', 5, 1);
INSERT INTO "events" VALUES (42, '', 'm160dkq1', 1800000030.0, 'reported', NULL, '', 6, 1);
INSERT INTO "events" VALUES (43, '', 'epdc5ai1', 1800000030.0, 'reported', NULL, '', 7, 1);
INSERT INTO "events" VALUES (44, '', 'dpe3loab', 1800000030.0, 'rejected', NULL, '', 8, 1);
INSERT INTO "events" VALUES (45, '', '9dmra8fg', 1800000030.0, 'failed', NULL, '{"r":"after 1 attempt: out of memory"}', 9, 1);
INSERT INTO "events" VALUES (46, '', 'a137ee1i', 1800000040.0, 'queued', NULL, '', 1, 1);
INSERT INTO "events" VALUES (47, '', 'oo55n1fr', 1800000050.0, 'retrying', NULL, '{"k":"sr","d":"archive","r":"archive answered 0xA700"}', 5, 1);
INSERT INTO "events" VALUES (48, '', 'm160dkq1', 1800000050.0, 'sent', NULL, '{"k":"sr","d":"archive","s":0}', 6, 1);
INSERT INTO "events" VALUES (49, '', 'm160dkq1', 1800000051.0, 'asked', NULL, '{"k":"sr","d":"archive"}', 6, 1);
CREATE TABLE instances (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	sop_class_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	transfer_syntax_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	study_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	series_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	patient_id TEXT DEFAULT '' NOT NULL, 
	patient_name TEXT DEFAULT '' NOT NULL, 
	patient_birth_date TEXT DEFAULT '' NOT NULL, 
	patient_sex TEXT DEFAULT '' NOT NULL, 
	accession_number TEXT DEFAULT '' NOT NULL, 
	study_date TEXT DEFAULT '' NOT NULL, 
	study_time TEXT DEFAULT '' NOT NULL, 
	modality TEXT DEFAULT '' NOT NULL, 
	body_part TEXT DEFAULT '' NOT NULL, 
	"view" TEXT DEFAULT '' NOT NULL, 
	manufacturer TEXT DEFAULT '' NOT NULL, 
	station_name TEXT DEFAULT '' NOT NULL, 
	institution TEXT DEFAULT '' NOT NULL, 
	study_description TEXT DEFAULT '' NOT NULL, 
	series_description TEXT DEFAULT '' NOT NULL, 
	presentation_intent TEXT DEFAULT '' NOT NULL, 
	calling_ae TEXT DEFAULT '' NOT NULL, 
	calling_host TEXT DEFAULT '' NOT NULL, 
	called_ae TEXT DEFAULT '' NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER NOT NULL, 
	file TEXT DEFAULT '' NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	resends INTEGER DEFAULT '0' NOT NULL, 
	received_at FLOAT DEFAULT '0' NOT NULL, 
	kept_at FLOAT DEFAULT '0' NOT NULL, 
	purged_at FLOAT DEFAULT '0' NOT NULL, number INTEGER, folded_name TEXT DEFAULT '' NOT NULL, issuer_of_patient_id TEXT DEFAULT '' NOT NULL, study_id TEXT DEFAULT '' NOT NULL, referring_physician TEXT DEFAULT '' NOT NULL, is_filled INTEGER DEFAULT '0' NOT NULL, association TEXT DEFAULT '' NOT NULL, sort_name TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (sop_instance_uid)
);
INSERT INTO "instances" VALUES ('1.2.3.1', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000001', 101, 'images/aa/1.dcm', 'routed', '', 0, 1800000001.0, 1800000001.0, 0.0, 1, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.2', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000002', 102, 'images/aa/2.dcm', 'routed', '', 0, 1800000002.0, 1800000002.0, 0.0, 2, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.3', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000003', 103, 'images/aa/3.dcm', 'routed', '', 0, 1800000003.0, 1800000003.0, 0.0, 3, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.4', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000004', 104, 'images/aa/4.dcm', 'routed', '', 0, 1800000004.0, 1800000004.0, 0.0, 4, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.5', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000005', 105, 'images/aa/5.dcm', 'routed', '', 0, 1800000005.0, 1800000005.0, 0.0, 5, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.6', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000006', 106, 'images/aa/6.dcm', 'routed', '', 0, 1800000006.0, 1800000006.0, 0.0, 6, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.7', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000007', 107, 'images/aa/7.dcm', 'routed', '', 0, 1800000007.0, 1800000007.0, 0.0, 7, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.8', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000008', 108, 'images/aa/8.dcm', 'routed', '', 0, 1800000008.0, 1800000008.0, 0.0, 8, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.9', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '0000000000000000000000000000000000000000000000000000000000000009', 109, 'images/aa/9.dcm', 'routed', '', 0, 1800000009.0, 1800000009.0, 0.0, 9, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.10', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '000000000000000000000000000000000000000000000000000000000000000a', 110, 'images/aa/10.dcm', 'ignored', 'no rule matched', 0, 1800000010.0, 1800000010.0, 0.0, 10, '', '', '', '', 1, '', 'doe^jane');
INSERT INTO "instances" VALUES ('1.2.3.11', '1.2.840.10008.5.1.4.1.1.1', '1.2.840.10008.1.2.1', '1.2.4', '1.2.5', 'PID1', 'Doe^Jane', '', '', 'A1', '', '', 'CR', '', '', '', '', '', '', '', '', 'MODALITY', '10.0.0.9', '', 0, '000000000000000000000000000000000000000000000000000000000000000b', 111, 'images/aa/11.dcm', 'routed', '', 0, 1800000011.0, 1800000011.0, 0.0, 11, '', '', '', '', 1, '', 'doe^jane');
CREATE TABLE jobs (
	id VARCHAR(32) NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	generation INTEGER NOT NULL, 
	rule TEXT DEFAULT '' NOT NULL, 
	mode TEXT DEFAULT '' NOT NULL, 
	allow_demonstration BOOLEAN NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	send_to TEXT DEFAULT '' NOT NULL, 
	report_order TEXT DEFAULT '' NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	token TEXT DEFAULT '' NOT NULL, 
	worker TEXT DEFAULT '' NOT NULL, 
	until FLOAT DEFAULT '0' NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	handouts INTEGER DEFAULT '0' NOT NULL, 
	next_at FLOAT DEFAULT '0' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	received_at FLOAT DEFAULT '0' NOT NULL, 
	started_at FLOAT DEFAULT '0' NOT NULL, 
	ended_at FLOAT DEFAULT '0' NOT NULL, 
	model_version TEXT DEFAULT '' NOT NULL, 
	device_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	demonstration BOOLEAN DEFAULT '0' NOT NULL, 
	result TEXT DEFAULT '' NOT NULL, dated_at FLOAT DEFAULT '0' NOT NULL, standing TEXT DEFAULT '' NOT NULL, is_kept INTEGER DEFAULT '1' NOT NULL, order_id INTEGER, maker_id INTEGER, finding VARCHAR(1), 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_sop_instance_uid FOREIGN KEY(sop_instance_uid) REFERENCES instances (sop_instance_uid), 
	CONSTRAINT uq_jobs_sop_instance_uid_model_generation UNIQUE (sop_instance_uid, model, generation)
);
INSERT INTO "jobs" VALUES ('a137ee1inue2sd4185hs', '1.2.3.1', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '1800000001+0', 'received', '', '', 0.0, 0, 0, 0.0, '', 1800000001.0, 0.0, 0.0, '', '', 0, '', 1800000040.0, 'received', 1, 1, NULL, NULL);
INSERT INTO "jobs" VALUES ('v0rjb3pa8c5fm4dgjehb', '1.2.3.2', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":2,"content_datetime":"2027-01-15T08:00:02Z","series_datetime":"2027-01-15T08:00:01Z"}', 'queued', 'sAOLx_3TkSuZJC5r', '', 1800000080.0, 0, 1, 0.0, '', 1800000002.0, 0.0, 0.0, '', '', 0, '', 1800000020.0, 'queued', 1, 1, NULL, NULL);
INSERT INTO "jobs" VALUES ('fnnbtq5kjh3jcbgejsp3', '1.2.3.3', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":3,"content_datetime":"2027-01-15T08:00:03Z","series_datetime":"2027-01-15T08:00:01Z"}', 'running', '-YZVb0lPEtBeJP3f', 'old-worker:1', 1800000081.0, 1, 1, 0.0, '', 1800000003.0, 1800000021.0, 0.0, '', '', 0, '', 1800000021.0, 'running', 1, 1, NULL, NULL);
INSERT INTO "jobs" VALUES ('o02pk78k8mvtgd9ahjq3', '1.2.3.4', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":4,"content_datetime":"2027-01-15T08:00:04Z","series_datetime":"2027-01-15T08:00:01Z"}', 'reported', '4i1cc23ZMdOYe4rh', 'old-worker:1', 0.0, 1, 1, 0.0, '', 1800000004.0, 1800000021.0, 1800000030.0, '', '', 1, '{"t":"No fracture.","p":"absent","m":[1.0,2.0,null,30.0,4.0]}', 1800000021.0, 'retrying', 1, 1, 1, 'a');
INSERT INTO "jobs" VALUES ('oo55n1frplraba81f853', '1.2.3.5', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":5,"content_datetime":"2027-01-15T08:00:05Z","series_datetime":"2027-01-15T08:00:01Z"}', 'reported', 'bq_iESgtgkYiu3UK', 'old-worker:1', 0.0, 1, 1, 0.0, '', 1800000005.0, 1800000021.0, 1800000030.0, '', '', 1, '{"t":"No fracture.","p":"absent","m":[1.0,2.0,null,30.0,4.0]}', 1800000021.0, 'retrying', 1, 1, 1, 'a');
INSERT INTO "jobs" VALUES ('m160dkq11numca5cms94', '1.2.3.6', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":6,"content_datetime":"2027-01-15T08:00:06Z","series_datetime":"2027-01-15T08:00:01Z"}', 'reported', 'TuhBd_Tc5p5ll7ft', 'old-worker:1', 0.0, 1, 1, 0.0, '', 1800000006.0, 1800000021.0, 1800000030.0, '', '', 1, '{"t":"No fracture.","p":"absent","m":[1.0,2.0,null,30.0,4.0]}', 1800000021.0, 'delivered', 1, 1, 1, 'a');
INSERT INTO "jobs" VALUES ('epdc5ai1gt2ug4kibnqm', '1.2.3.7', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":7,"content_datetime":"2027-01-15T08:00:07Z","series_datetime":"2027-01-15T08:00:01Z"}', 'reported', 'a7j98g7tjht4OIJ8', 'old-worker:1', 0.0, 1, 1, 0.0, '', 1800000007.0, 1800000021.0, 1800000030.0, '', '', 1, '{"t":"No fracture.","p":"absent","m":[1.0,2.0,null,30.0,4.0]}', 1800000021.0, 'retrying', 1, 1, 1, 'a');
INSERT INTO "jobs" VALUES ('dpe3loabttclir7uu9mb', '1.2.3.8', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":8,"content_datetime":"2027-01-15T08:00:08Z","series_datetime":"2027-01-15T08:00:01Z"}', 'rejected', 'N1Nk8QokBovF6pLq', 'old-worker:1', 0.0, 1, 1, 0.0, 'lateral-view', 1800000008.0, 1800000021.0, 1800000030.0, '', '', 1, '{"t":"No fracture.","p":"absent","r":{"code":"lateral-view","text":"A lateral view."},"m":[1.0,2.0,null,30.0,4.0]}', 1800000021.0, 'retrying', 1, 1, 1, 'a');
INSERT INTO "jobs" VALUES ('9dmra8fg3g1d1j4or3rk', '1.2.3.9', 'phantom', 1, 'frontal', 'live', 1, 1, 'archive', '{"instance_number":9,"content_datetime":"2027-01-15T08:00:09Z","series_datetime":"2027-01-15T08:00:01Z"}', 'failed', '', 'old-worker:1', 0.0, 1, 1, 0.0, 'after 1 attempt: out of memory', 1800000009.0, 1800000021.0, 1800000030.0, '', '', 0, '', 1800000021.0, 'failed', 0, 1, NULL, NULL);
INSERT INTO "jobs" VALUES ('gnser2l4jl0uh5bn99m2', '1.2.3.11', 'phantom', 1, 'frontal', 'shadow', 1, 1, 'archive', '{"instance_number":10,"content_datetime":"2027-01-15T08:00:11Z","series_datetime":"2027-01-15T08:00:01Z"}', 'received', '', '', 0.0, 0, 0, 0.0, '', 1800000011.0, 0.0, 0.0, '', '', 0, '', 0.0, 'received', 1, 1, NULL, NULL);
CREATE TABLE deliveries (
	id INTEGER NOT NULL, 
	job VARCHAR(32) NOT NULL, 
	destination VARCHAR(64) NOT NULL, 
	part VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	state TEXT DEFAULT '' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	status INTEGER, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	next_at FLOAT DEFAULT '0' NOT NULL, 
	created_at FLOAT DEFAULT '0' NOT NULL, 
	ended_at FLOAT DEFAULT '0' NOT NULL, asks INTEGER DEFAULT '0' NOT NULL, ask_at FLOAT DEFAULT '0' NOT NULL, dated_at FLOAT DEFAULT '0' NOT NULL, unanswered INTEGER DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_deliveries_job FOREIGN KEY(job) REFERENCES jobs (id), 
	CONSTRAINT uq_deliveries_job_destination_part UNIQUE (job, destination, part)
);
INSERT INTO "deliveries" VALUES (1, 'o02pk78k8mvtgd9ahjq3', 'archive', 'sr', 'sr', 'retrying', 'archive gives no answer', '', NULL, 0, 1800000030.0, 1800000030.0, 0.0, 0, 0.0, 1800000030.0, 0);
INSERT INTO "deliveries" VALUES (2, 'oo55n1frplraba81f853', 'archive', 'sr', 'sr', 'retrying', 'archive answered 0xA700', '', 42752, 1, 1800000090.0, 1800000030.0, 0.0, 0, 0.0, 1800000050.0, 0);
INSERT INTO "deliveries" VALUES (3, 'm160dkq11numca5cms94', 'archive', 'sr', 'sr', 'sent', 'storage commitment asked for', '=sr', 0, 0, 1800000030.0, 1800000030.0, 1800000050.0, 1, 1800000651.0, 1800000051.0, 0);
INSERT INTO "deliveries" VALUES (4, 'epdc5ai1gt2ug4kibnqm', 'archive', 'sr', 'sr', 'retrying', 'archive gives no answer', '=sr', NULL, 0, 1800000030.0, 1800000030.0, 0.0, 0, 0.0, 1800000030.0, 1);
INSERT INTO "deliveries" VALUES (5, 'dpe3loabttclir7uu9mb', 'archive', 'sr', 'sr', 'retrying', 'archive gives no answer', '', NULL, 0, 1800000030.0, 1800000030.0, 0.0, 0, 0.0, 1800000030.0, 0);
CREATE TABLE objects (
	job VARCHAR(32) NOT NULL, 
	part VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sop_class_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	series_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	file TEXT DEFAULT '' NOT NULL, 
	purged_at FLOAT DEFAULT '0' NOT NULL, modality TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_objects PRIMARY KEY (job, part), 
	CONSTRAINT fk_objects_job FOREIGN KEY(job) REFERENCES jobs (id)
);
INSERT INTO "objects" VALUES ('o02pk78k8mvtgd9ahjq3', 'sr', 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.4', '2.25.99', 'reports/aa/o02pk78k.sr.dcm', 0.0, '');
INSERT INTO "objects" VALUES ('oo55n1frplraba81f853', 'sr', 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.5', '2.25.99', 'reports/aa/oo55n1fr.sr.dcm', 0.0, '');
INSERT INTO "objects" VALUES ('m160dkq11numca5cms94', 'sr', 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.6', '2.25.99', 'reports/aa/m160dkq1.sr.dcm', 0.0, '');
INSERT INTO "objects" VALUES ('epdc5ai1gt2ug4kibnqm', 'sr', 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.7', '2.25.99', 'reports/aa/epdc5ai1.sr.dcm', 0.0, '');
INSERT INTO "objects" VALUES ('dpe3loabttclir7uu9mb', 'sr', 'sr', '1.2.840.10008.5.1.4.1.1.88.34', '2.25.8', '2.25.99', 'reports/aa/dpe3loab.sr.dcm', 0.0, '');
CREATE TABLE commitments (
	transaction_uid VARCHAR(64) NOT NULL, 
	delivery INTEGER NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	asked_at FLOAT DEFAULT '0' NOT NULL, 
	ended_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_commitments PRIMARY KEY (transaction_uid, delivery), 
	CONSTRAINT fk_commitments_delivery FOREIGN KEY(delivery) REFERENCES deliveries (id)
);
INSERT INTO "commitments" VALUES ('2.25.660', 3, 0, 1800000051.0, 0.0);
CREATE TABLE orders (
	id INTEGER NOT NULL, 
	content TEXT NOT NULL, 
	CONSTRAINT pk_orders PRIMARY KEY (id), 
	CONSTRAINT uq_orders_content UNIQUE (content)
);
INSERT INTO "orders" VALUES (1, '{"series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}');
CREATE TABLE marks (
	name VARCHAR(32) NOT NULL, 
	value BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_marks PRIMARY KEY (name)
);
INSERT INTO "marks" VALUES ('filled', 0);
INSERT INTO "marks" VALUES ('base', 0);
INSERT INTO "marks" VALUES ('uncounted', 0);
INSERT INTO "marks" VALUES ('0011 readable by', 11);
INSERT INTO "marks" VALUES ('unnamed makers', 0);
CREATE TABLE totals (
	what VARCHAR(16) NOT NULL, 
	name VARCHAR(64) NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	shard INTEGER NOT NULL, 
	n BIGINT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_totals PRIMARY KEY (what, name, state, shard)
);
INSERT INTO "totals" VALUES ('instances', '', 'routed', 0, 10);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'received', 0, 2);
INSERT INTO "totals" VALUES ('instances', '', 'ignored', 0, 1);
INSERT INTO "totals" VALUES ('conflicts', '', '', 0, 1);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'queued', 0, 1);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'running', 0, 1);
INSERT INTO "totals" VALUES ('results', '1', '', 0, 5);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'reported', 0, 4);
INSERT INTO "totals" VALUES ('deliveries', 'archive', 'pending', 0, 0);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'rejected', 0, 1);
INSERT INTO "totals" VALUES ('jobs', 'phantom', 'failed', 0, 1);
INSERT INTO "totals" VALUES ('deliveries', 'archive', 'retrying', 0, 4);
INSERT INTO "totals" VALUES ('deliveries', 'archive', 'sent', 0, 1);
CREATE TABLE judgements (
	id INTEGER NOT NULL, 
	job VARCHAR(32) NOT NULL, 
	at FLOAT NOT NULL, 
	reader TEXT DEFAULT '' NOT NULL, 
	verdict VARCHAR(16) NOT NULL, 
	comment TEXT DEFAULT '' NOT NULL, 
	corrected_text TEXT DEFAULT '' NOT NULL, 
	findings TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_judgements PRIMARY KEY (id), 
	CONSTRAINT fk_judgements_job FOREIGN KEY(job) REFERENCES jobs (id)
);
CREATE TABLE web_sessions (
	"key" TEXT NOT NULL, 
	user_name TEXT NOT NULL, 
	mark TEXT NOT NULL, 
	address TEXT DEFAULT '' NOT NULL, 
	created_at FLOAT DEFAULT '0' NOT NULL, 
	seen_at FLOAT DEFAULT '0' NOT NULL, 
	until FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_web_sessions PRIMARY KEY ("key")
);
CREATE TABLE senders (
	sop_instance_uid VARCHAR(64) NOT NULL, 
	calling_ae VARCHAR(64) NOT NULL, 
	calling_host VARCHAR(64) NOT NULL, 
	called_ae TEXT DEFAULT '' NOT NULL, 
	association TEXT DEFAULT '' NOT NULL, 
	received INTEGER DEFAULT '0' NOT NULL, 
	first_at FLOAT DEFAULT '0' NOT NULL, 
	last_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_senders PRIMARY KEY (sop_instance_uid, calling_ae, calling_host), 
	CONSTRAINT fk_senders_sop_instance_uid FOREIGN KEY(sop_instance_uid) REFERENCES instances (sop_instance_uid)
);
CREATE TABLE likenesses (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) NOT NULL, 
	transfer_syntax_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	sha256 VARCHAR(64) NOT NULL, 
	size INTEGER DEFAULT '0' NOT NULL, 
	file TEXT DEFAULT '' NOT NULL, 
	state VARCHAR(16) NOT NULL, 
	calling_ae TEXT DEFAULT '' NOT NULL, 
	calling_host TEXT DEFAULT '' NOT NULL, 
	called_ae TEXT DEFAULT '' NOT NULL, 
	association TEXT DEFAULT '' NOT NULL, 
	priority INTEGER DEFAULT '0' NOT NULL, 
	received_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_likenesses PRIMARY KEY (id), 
	CONSTRAINT uq_likenesses_sop_instance_uid_sha256_transfer_syntax_uid UNIQUE (sop_instance_uid, sha256, transfer_syntax_uid), 
	CONSTRAINT fk_likenesses_sop_instance_uid FOREIGN KEY(sop_instance_uid) REFERENCES instances (sop_instance_uid)
);
CREATE TABLE refused_callers (
	ae_title VARCHAR(64) NOT NULL, 
	address VARCHAR(64) NOT NULL, 
	called_ae VARCHAR(64) NOT NULL, 
	reason VARCHAR(256) NOT NULL, 
	count INTEGER DEFAULT '0' NOT NULL, 
	first_at FLOAT DEFAULT '0' NOT NULL, 
	last_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_refused_callers PRIMARY KEY (ae_title, address, called_ae, reason)
);
CREATE TABLE study_numbers (
	study_instance_uid VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	last INTEGER NOT NULL, 
	CONSTRAINT pk_study_numbers PRIMARY KEY (study_instance_uid, model)
)
 WITHOUT ROWID

;
INSERT INTO "study_numbers" VALUES ('1.2.4', 'phantom', 10);
CREATE TABLE makers (
	id INTEGER NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	model_version TEXT NOT NULL, 
	device_uid VARCHAR(64) NOT NULL, 
	demonstration BOOLEAN NOT NULL, 
	options TEXT NOT NULL, 
	last_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_makers PRIMARY KEY (id), 
	CONSTRAINT uq_makers_model_model_version_device_uid_demonstration_options UNIQUE (model, model_version, device_uid, demonstration, options)
);
INSERT INTO "makers" VALUES (1, 'phantom', '0.1.0', '2.25.1', 1, '', 1800000030.0);
CREATE TABLE workers (
	name TEXT NOT NULL, 
	claimed_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_workers PRIMARY KEY (name)
);
INSERT INTO "workers" VALUES ('old-worker:1', 1800000021.0);
CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, detail='none', tokenize='ascii', prefix='1 2 3 4 5 6');
CREATE TABLE holds (
	kind VARCHAR(16) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	held_by TEXT DEFAULT '' NOT NULL, 
	address TEXT DEFAULT '' NOT NULL, 
	since FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_holds PRIMARY KEY (kind, name)
);
CREATE TABLE api_keys (
	"key" VARCHAR(64) NOT NULL, 
	ident VARCHAR(16) NOT NULL, 
	user_name VARCHAR(64) NOT NULL, 
	label TEXT DEFAULT '' NOT NULL, 
	made_by TEXT DEFAULT '' NOT NULL, 
	created_at FLOAT DEFAULT '0' NOT NULL, 
	used_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_api_keys PRIMARY KEY ("key"), 
	CONSTRAINT uq_api_keys_ident UNIQUE (ident)
);
CREATE TABLE past_events (
	number INTEGER NOT NULL, 
	content TEXT NOT NULL, 
	CONSTRAINT pk_past_events PRIMARY KEY (number)
);
CREATE INDEX ix_instances_accession_number ON instances (accession_number);
CREATE INDEX ix_instances_patient_id ON instances (patient_id);
CREATE INDEX ix_instances_received_at ON instances (received_at);
CREATE INDEX ix_instances_study_instance_uid ON instances (study_instance_uid);
CREATE INDEX ix_objects_sop_instance_uid ON objects (sop_instance_uid);
CREATE INDEX ix_judgements_job ON judgements (job);
CREATE TRIGGER instances_counted AFTER INSERT ON instances BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('instances', '', NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER instances_dropped AFTER DELETE ON instances BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('instances', '', OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; END;
CREATE TRIGGER instances_moved AFTER UPDATE ON instances WHEN OLD.state <> NEW.state BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('instances', '', OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; INSERT INTO totals (what, name, state, shard, n) VALUES ('instances', '', NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER jobs_counted AFTER INSERT ON jobs BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('jobs', NEW.model, NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER jobs_dropped AFTER DELETE ON jobs BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('jobs', OLD.model, OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; END;
CREATE TRIGGER jobs_moved AFTER UPDATE ON jobs WHEN OLD.model <> NEW.model OR OLD.state <> NEW.state BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('jobs', OLD.model, OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; INSERT INTO totals (what, name, state, shard, n) VALUES ('jobs', NEW.model, NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER deliveries_counted AFTER INSERT ON deliveries BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('deliveries', NEW.destination, NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER deliveries_dropped AFTER DELETE ON deliveries BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('deliveries', OLD.destination, OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; END;
CREATE TRIGGER deliveries_moved AFTER UPDATE ON deliveries WHEN OLD.destination <> NEW.destination OR OLD.state <> NEW.state BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('deliveries', OLD.destination, OLD.state, 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; INSERT INTO totals (what, name, state, shard, n) VALUES ('deliveries', NEW.destination, NEW.state, 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER conflicts_counted AFTER INSERT ON conflicts BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('conflicts', '', '', 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE TRIGGER conflicts_dropped AFTER DELETE ON conflicts BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('conflicts', '', '', 0, -1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + -1; END;
CREATE INDEX ix_likenesses_state ON likenesses (state, received_at);
CREATE TRIGGER jobs_standing_first AFTER INSERT ON jobs  BEGIN UPDATE jobs SET standing = 
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
 WHERE id = NEW.id; END;
CREATE TRIGGER jobs_standing AFTER UPDATE OF state ON jobs WHEN OLD.state <> NEW.state BEGIN UPDATE jobs SET standing = 
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
 WHERE id = NEW.id; END;
CREATE TRIGGER deliveries_standing_first AFTER INSERT ON deliveries  BEGIN UPDATE jobs SET standing = 
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
 WHERE id = NEW.job; END;
CREATE TRIGGER deliveries_standing AFTER UPDATE OF state ON deliveries WHEN OLD.state <> NEW.state BEGIN UPDATE jobs SET standing = 
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
 WHERE id = NEW.job; END;
CREATE TRIGGER deliveries_standing_last AFTER DELETE ON deliveries  BEGIN UPDATE jobs SET standing = 
CASE WHEN jobs.state NOT IN ('reported', 'rejected') THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'retrying')
         THEN 'retrying'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'pending')
         THEN jobs.state
     WHEN EXISTS (SELECT 1 FROM deliveries d
                  WHERE d.job = jobs.id AND d.state || '' IN ('sent', 'settled'))
         THEN 'delivered'
     WHEN EXISTS (SELECT 1 FROM deliveries d WHERE d.job = jobs.id AND d.state || '' = 'committed')
         THEN 'committed'
     ELSE jobs.state END
 WHERE id = OLD.job; END;
CREATE TRIGGER jobs_made AFTER UPDATE OF maker_id ON jobs WHEN NEW.maker_id IS NOT NULL BEGIN INSERT INTO totals (what, name, state, shard, n) VALUES ('results', CAST(NEW.maker_id AS TEXT), '', 0, 1) ON CONFLICT (what, name, state, shard) DO UPDATE SET n = totals.n + 1; END;
CREATE INDEX ix_instances_ignored ON instances (received_at) WHERE state = 'ignored';
CREATE UNIQUE INDEX ix_instances_number ON instances (number) WHERE number IS NOT NULL;
CREATE INDEX ix_instances_unnumbered ON instances (received_at) WHERE number IS NULL;
CREATE INDEX ix_conflicts_purged ON conflicts (purged_at, received_at);
CREATE INDEX ix_events_of_instance ON events (instance) WHERE instance IS NOT NULL;
CREATE INDEX ix_events_uid ON events (sop_instance_uid) WHERE sop_instance_uid <> '';
CREATE INDEX ix_instances_kept ON instances (kept_at) WHERE file <> '';
CREATE INDEX ix_instances_sort_name_received_at ON instances (sort_name, received_at);
CREATE INDEX ix_instances_study_date ON instances (study_date, number) WHERE study_date <> '';
CREATE INDEX ix_instances_unsorted ON instances (received_at) WHERE sort_name = '';
CREATE INDEX ix_jobs_ended ON jobs (is_kept, ended_at) WHERE ended_at > 0;
CREATE INDEX ix_jobs_finding ON jobs (finding, received_at) WHERE finding <> '';
CREATE INDEX ix_jobs_later ON jobs (standing, received_at) WHERE generation > 1;
CREATE INDEX ix_jobs_standing ON jobs (standing, received_at) WHERE standing <> '';
CREATE INDEX ix_jobs_unfinished ON jobs (state, model, priority, received_at) WHERE state IN ('received', 'queued', 'running', 'failed');
CREATE INDEX ix_jobs_unfound ON jobs (ended_at) WHERE finding IS NULL AND state IN ('reported', 'rejected');
CREATE INDEX ix_deliveries_asked ON deliveries (ask_at) WHERE ask_at > 0;
CREATE INDEX ix_deliveries_unsent ON deliveries (state, destination, next_at) WHERE state IN ('pending', 'retrying');
COMMIT;
