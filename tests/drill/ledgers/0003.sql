BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0003');
CREATE TABLE commitments (
	transaction_uid VARCHAR(64) NOT NULL, 
	delivery INTEGER NOT NULL, 
	attempts INTEGER DEFAULT '0' NOT NULL, 
	asked_at FLOAT DEFAULT '0' NOT NULL, 
	ended_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_commitments PRIMARY KEY (transaction_uid, delivery), 
	CONSTRAINT fk_commitments_delivery FOREIGN KEY(delivery) REFERENCES deliveries (id)
);
INSERT INTO "commitments" VALUES('2.25.660',3,0,1800000051.0,0.0);
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
INSERT INTO "conflicts" VALUES(1,'1.2.3.1','1.2.840.10008.1.2.1','ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff',101,'conflicts/ff/1.dcm','MODALITY','10.0.0.9',1800000012.0,0.0);
CREATE TABLE counters (
	study_instance_uid VARCHAR(64) NOT NULL, 
	model VARCHAR(64) NOT NULL, 
	last INTEGER NOT NULL, 
	CONSTRAINT pk_counters PRIMARY KEY (study_instance_uid, model)
);
INSERT INTO "counters" VALUES('1.2.4','phantom',10);
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
	ended_at FLOAT DEFAULT '0' NOT NULL, asks INTEGER DEFAULT '0' NOT NULL, ask_at FLOAT DEFAULT '0' NOT NULL, dated_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_deliveries PRIMARY KEY (id), 
	CONSTRAINT fk_deliveries_job FOREIGN KEY(job) REFERENCES jobs (id), 
	CONSTRAINT uq_deliveries_job_destination_part UNIQUE (job, destination, part)
);
INSERT INTO "deliveries" VALUES(1,'c0059a1d1445bfd8352a8cf4338eaf17','archive','sr','sr','retrying','archive gives no answer','',NULL,0,1800000030.0,1800000030.0,0.0,0,0.0,1800000030.0);
INSERT INTO "deliveries" VALUES(2,'c60a5b85fbcd76a5a9017a0a3b98e04f','archive','sr','sr','retrying','archive answered 0xA700','',42752,1,1800000090.0,1800000030.0,0.0,0,0.0,1800000050.0);
INSERT INTO "deliveries" VALUES(3,'b04c06d3410dfd6628acb7124c7028fc','archive','sr','sr','sent','storage commitment asked for','2.25.6',0,0,1800000030.0,1800000030.0,1800000050.0,1,1800000651.0,1800000051.0);
INSERT INTO "deliveries" VALUES(4,'765ac2aa418745e812925df5649dc378','archive','sr','sr','retrying','archive gives no answer','2.25.7',NULL,0,1800000030.0,1800000030.0,0.0,0,0.0,1800000030.0);
INSERT INTO "deliveries" VALUES(5,'6e5c3ae14bef59596cfef26cbc0078bd','archive','sr','sr','retrying','archive gives no answer','',NULL,0,1800000030.0,1800000030.0,0.0,0,0.0,1800000030.0);
CREATE TABLE destinations (
	name VARCHAR(64) NOT NULL, 
	failures INTEGER DEFAULT '0' NOT NULL, 
	held_until FLOAT DEFAULT '0' NOT NULL, 
	changed_at FLOAT DEFAULT '0' NOT NULL, 
	reason TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_destinations PRIMARY KEY (name)
);
INSERT INTO "destinations" VALUES('archive',1,1800000095.0,1800000051.0,'archive gives no answer');
CREATE TABLE events (
	id INTEGER NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	job VARCHAR(32) DEFAULT '' NOT NULL, 
	at FLOAT NOT NULL, 
	stage VARCHAR(32) NOT NULL, 
	ms FLOAT, 
	detail TEXT DEFAULT '' NOT NULL, 
	CONSTRAINT pk_events PRIMARY KEY (id)
);
INSERT INTO "events" VALUES(1,'1.2.3.1','',1800000001.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(2,'1.2.3.1','5046773832bf9c2e34814163c2d91f72',1800000001.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(3,'1.2.3.2','',1800000002.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(4,'1.2.3.2','f837358f2a430afb11b09ba2b16bb9a9',1800000002.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(5,'1.2.3.3','',1800000003.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(6,'1.2.3.3','7deebee8b49c47362e0e9f32385921d3',1800000003.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(7,'1.2.3.4','',1800000004.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(8,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000004.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(9,'1.2.3.5','',1800000005.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(10,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000005.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(11,'1.2.3.6','',1800000006.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(12,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000006.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(13,'1.2.3.7','',1800000007.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(14,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000007.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(15,'1.2.3.8','',1800000008.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(16,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000008.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(17,'1.2.3.9','',1800000009.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(18,'1.2.3.9','4b6db521f01c02d0cc98d8f744c1201f',1800000009.0,'routed',NULL,'rule ''frontal'': phantom, live');
INSERT INTO "events" VALUES(19,'1.2.3.10','',1800000010.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(20,'1.2.3.10','',1800000010.0,'ignored',NULL,'no rule matched');
INSERT INTO "events" VALUES(21,'1.2.3.11','',1800000011.0,'received',NULL,'from MODALITY@10.0.0.9');
INSERT INTO "events" VALUES(22,'1.2.3.11','85f8ed8aa49d41e895774a6c21cb1d63',1800000011.0,'routed',NULL,'rule ''frontal'': phantom, shadow');
INSERT INTO "events" VALUES(23,'1.2.3.1','',1800000012.0,'conflict',NULL,'same SOP Instance UID with other content; kept apart, not analysed');
INSERT INTO "events" VALUES(24,'1.2.3.1','5046773832bf9c2e34814163c2d91f72',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(25,'1.2.3.2','f837358f2a430afb11b09ba2b16bb9a9',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(26,'1.2.3.3','7deebee8b49c47362e0e9f32385921d3',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(27,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(28,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(29,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(30,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(31,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(32,'1.2.3.9','4b6db521f01c02d0cc98d8f744c1201f',1800000020.0,'queued',NULL,'');
INSERT INTO "events" VALUES(33,'1.2.3.3','7deebee8b49c47362e0e9f32385921d3',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(34,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(35,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(36,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(37,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(38,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(39,'1.2.3.9','4b6db521f01c02d0cc98d8f744c1201f',1800000021.0,'claimed',NULL,'attempt 1 by old-worker:1');
INSERT INTO "events" VALUES(40,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000029.964,'fetch',1.0,'');
INSERT INTO "events" VALUES(41,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000029.966,'decode',2.0,'');
INSERT INTO "events" VALUES(42,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000029.996,'model',30.0,'');
INSERT INTO "events" VALUES(43,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000030.0,'report',4.0,'');
INSERT INTO "events" VALUES(44,'1.2.3.4','c0059a1d1445bfd8352a8cf4338eaf17',1800000030.0,'reported',NULL,'phantom 0.1.0');
INSERT INTO "events" VALUES(45,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000029.964,'fetch',1.0,'');
INSERT INTO "events" VALUES(46,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000029.966,'decode',2.0,'');
INSERT INTO "events" VALUES(47,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000029.996,'model',30.0,'');
INSERT INTO "events" VALUES(48,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000030.0,'report',4.0,'');
INSERT INTO "events" VALUES(49,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000030.0,'reported',NULL,'phantom 0.1.0');
INSERT INTO "events" VALUES(50,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000029.964,'fetch',1.0,'');
INSERT INTO "events" VALUES(51,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000029.966,'decode',2.0,'');
INSERT INTO "events" VALUES(52,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000029.996,'model',30.0,'');
INSERT INTO "events" VALUES(53,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000030.0,'report',4.0,'');
INSERT INTO "events" VALUES(54,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000030.0,'reported',NULL,'phantom 0.1.0');
INSERT INTO "events" VALUES(55,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000029.964,'fetch',1.0,'');
INSERT INTO "events" VALUES(56,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000029.966,'decode',2.0,'');
INSERT INTO "events" VALUES(57,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000029.996,'model',30.0,'');
INSERT INTO "events" VALUES(58,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000030.0,'report',4.0,'');
INSERT INTO "events" VALUES(59,'1.2.3.7','765ac2aa418745e812925df5649dc378',1800000030.0,'reported',NULL,'phantom 0.1.0');
INSERT INTO "events" VALUES(60,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000029.964,'fetch',1.0,'');
INSERT INTO "events" VALUES(61,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000029.966,'decode',2.0,'');
INSERT INTO "events" VALUES(62,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000029.996,'model',30.0,'');
INSERT INTO "events" VALUES(63,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000030.0,'report',4.0,'');
INSERT INTO "events" VALUES(64,'1.2.3.8','6e5c3ae14bef59596cfef26cbc0078bd',1800000030.0,'rejected',NULL,'lateral-view: A lateral view.');
INSERT INTO "events" VALUES(65,'1.2.3.9','4b6db521f01c02d0cc98d8f744c1201f',1800000030.0,'failed',NULL,'after 1 attempts: out of memory');
INSERT INTO "events" VALUES(66,'1.2.3.1','5046773832bf9c2e34814163c2d91f72',1800000040.0,'queued',NULL,'');
INSERT INTO "events" VALUES(67,'1.2.3.5','c60a5b85fbcd76a5a9017a0a3b98e04f',1800000050.0,'retrying',NULL,'sr to archive: archive answered 0xA700');
INSERT INTO "events" VALUES(68,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000050.0,'sent',NULL,'sr to archive: 0x0000');
INSERT INTO "events" VALUES(69,'1.2.3.6','b04c06d3410dfd6628acb7124c7028fc',1800000051.0,'asked',NULL,'storage commitment of sr by archive');
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
	purged_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_instances PRIMARY KEY (sop_instance_uid)
);
INSERT INTO "instances" VALUES('1.2.3.1','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000001',101,'images/aa/1.dcm','routed','',0,1800000001.0,1800000001.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.2','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000002',102,'images/aa/2.dcm','routed','',0,1800000002.0,1800000002.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.3','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000003',103,'images/aa/3.dcm','routed','',0,1800000003.0,1800000003.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.4','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000004',104,'images/aa/4.dcm','routed','',0,1800000004.0,1800000004.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.5','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000005',105,'images/aa/5.dcm','routed','',0,1800000005.0,1800000005.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.6','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000006',106,'images/aa/6.dcm','routed','',0,1800000006.0,1800000006.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.7','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000007',107,'images/aa/7.dcm','routed','',0,1800000007.0,1800000007.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.8','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000008',108,'images/aa/8.dcm','routed','',0,1800000008.0,1800000008.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.9','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'0000000000000000000000000000000000000000000000000000000000000009',109,'images/aa/9.dcm','routed','',0,1800000009.0,1800000009.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.10','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'000000000000000000000000000000000000000000000000000000000000000a',110,'images/aa/10.dcm','ignored','no rule matched',0,1800000010.0,1800000010.0,0.0);
INSERT INTO "instances" VALUES('1.2.3.11','1.2.840.10008.5.1.4.1.1.1','1.2.840.10008.1.2.1','1.2.4','1.2.5','PID1','Doe^Jane','','','A1','','','CR','','','','','','','','','MODALITY','10.0.0.9','',0,'000000000000000000000000000000000000000000000000000000000000000b',111,'images/aa/11.dcm','routed','',0,1800000011.0,1800000011.0,0.0);
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
	result TEXT DEFAULT '' NOT NULL, dated_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_jobs PRIMARY KEY (id), 
	CONSTRAINT fk_jobs_sop_instance_uid FOREIGN KEY(sop_instance_uid) REFERENCES instances (sop_instance_uid), 
	CONSTRAINT uq_jobs_sop_instance_uid_model_generation UNIQUE (sop_instance_uid, model, generation)
);
INSERT INTO "jobs" VALUES('5046773832bf9c2e34814163c2d91f72','1.2.3.1','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":1,"content_datetime":"2027-01-15T08:00:01Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','received','','',0.0,0,0,0.0,'',1800000001.0,0.0,0.0,'','',0,'',1800000040.0);
INSERT INTO "jobs" VALUES('f837358f2a430afb11b09ba2b16bb9a9','1.2.3.2','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":2,"content_datetime":"2027-01-15T08:00:02Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','queued','23d20023a291ed9a2bbc6b9a2b08f8d1','',1800000080.0,0,1,0.0,'',1800000002.0,0.0,0.0,'','',0,'',1800000020.0);
INSERT INTO "jobs" VALUES('7deebee8b49c47362e0e9f32385921d3','1.2.3.3','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":3,"content_datetime":"2027-01-15T08:00:03Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','running','c73ae419e8f0e31f2dcd2d1bb3903908','old-worker:1',1800000081.0,1,1,0.0,'',1800000003.0,1800000021.0,0.0,'','',0,'',1800000021.0);
INSERT INTO "jobs" VALUES('c0059a1d1445bfd8352a8cf4338eaf17','1.2.3.4','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":4,"content_datetime":"2027-01-15T08:00:04Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','reported','7eca12d6a501f975c13cd376f1a19828','old-worker:1',0.0,1,1,0.0,'',1800000004.0,1800000021.0,1800000030.0,'0.1.0','2.25.1',1,'{"outcome":"reported","model":"phantom","model_version":"0.1.0","device_uid":"2.25.1","demonstration":true,"text":"No fracture.","presence":"absent","fractures":[],"warnings":[],"reason":null,"stages_ms":{"fetch":1.0,"decode":2.0,"model":30.0,"report":4.0},"objects":[{"kind":"sr","part":"sr","sop_class_uid":"1.2.840.10008.5.1.4.1.1.88.34","sop_instance_uid":"2.25.4","series_instance_uid":"2.25.99"}]}',1800000021.0);
INSERT INTO "jobs" VALUES('c60a5b85fbcd76a5a9017a0a3b98e04f','1.2.3.5','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":5,"content_datetime":"2027-01-15T08:00:05Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','reported','bac7954f86de8433d63a359973f5b2c1','old-worker:1',0.0,1,1,0.0,'',1800000005.0,1800000021.0,1800000030.0,'0.1.0','2.25.1',1,'{"outcome":"reported","model":"phantom","model_version":"0.1.0","device_uid":"2.25.1","demonstration":true,"text":"No fracture.","presence":"absent","fractures":[],"warnings":[],"reason":null,"stages_ms":{"fetch":1.0,"decode":2.0,"model":30.0,"report":4.0},"objects":[{"kind":"sr","part":"sr","sop_class_uid":"1.2.840.10008.5.1.4.1.1.88.34","sop_instance_uid":"2.25.5","series_instance_uid":"2.25.99"}]}',1800000021.0);
INSERT INTO "jobs" VALUES('b04c06d3410dfd6628acb7124c7028fc','1.2.3.6','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":6,"content_datetime":"2027-01-15T08:00:06Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','reported','dc2acffadd6731838e83f1371125c856','old-worker:1',0.0,1,1,0.0,'',1800000006.0,1800000021.0,1800000030.0,'0.1.0','2.25.1',1,'{"outcome":"reported","model":"phantom","model_version":"0.1.0","device_uid":"2.25.1","demonstration":true,"text":"No fracture.","presence":"absent","fractures":[],"warnings":[],"reason":null,"stages_ms":{"fetch":1.0,"decode":2.0,"model":30.0,"report":4.0},"objects":[{"kind":"sr","part":"sr","sop_class_uid":"1.2.840.10008.5.1.4.1.1.88.34","sop_instance_uid":"2.25.6","series_instance_uid":"2.25.99"}]}',1800000021.0);
INSERT INTO "jobs" VALUES('765ac2aa418745e812925df5649dc378','1.2.3.7','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":7,"content_datetime":"2027-01-15T08:00:07Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','reported','aa0bea62a449013e39c831b9c1f713a0','old-worker:1',0.0,1,1,0.0,'',1800000007.0,1800000021.0,1800000030.0,'0.1.0','2.25.1',1,'{"outcome":"reported","model":"phantom","model_version":"0.1.0","device_uid":"2.25.1","demonstration":true,"text":"No fracture.","presence":"absent","fractures":[],"warnings":[],"reason":null,"stages_ms":{"fetch":1.0,"decode":2.0,"model":30.0,"report":4.0},"objects":[{"kind":"sr","part":"sr","sop_class_uid":"1.2.840.10008.5.1.4.1.1.88.34","sop_instance_uid":"2.25.7","series_instance_uid":"2.25.99"}]}',1800000021.0);
INSERT INTO "jobs" VALUES('6e5c3ae14bef59596cfef26cbc0078bd','1.2.3.8','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":8,"content_datetime":"2027-01-15T08:00:08Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','rejected','faf95a7d2f1a59bf7270662e7c30651a','old-worker:1',0.0,1,1,0.0,'lateral-view',1800000008.0,1800000021.0,1800000030.0,'0.1.0','2.25.1',1,'{"outcome":"rejected","model":"phantom","model_version":"0.1.0","device_uid":"2.25.1","demonstration":true,"text":"No fracture.","presence":"absent","fractures":[],"warnings":[],"reason":{"code":"lateral-view","text":"A lateral view."},"stages_ms":{"fetch":1.0,"decode":2.0,"model":30.0,"report":4.0},"objects":[{"kind":"sr","part":"sr","sop_class_uid":"1.2.840.10008.5.1.4.1.1.88.34","sop_instance_uid":"2.25.8","series_instance_uid":"2.25.99"}]}',1800000021.0);
INSERT INTO "jobs" VALUES('4b6db521f01c02d0cc98d8f744c1201f','1.2.3.9','phantom',1,'frontal','live',1,1,'{"archive": []}','{"instance_number":9,"content_datetime":"2027-01-15T08:00:09Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','failed','','old-worker:1',0.0,1,1,0.0,'after 1 attempts: out of memory',1800000009.0,1800000021.0,1800000030.0,'','',0,'',1800000021.0);
INSERT INTO "jobs" VALUES('85f8ed8aa49d41e895774a6c21cb1d63','1.2.3.11','phantom',1,'frontal','shadow',1,1,'{"archive": []}','{"instance_number":10,"content_datetime":"2027-01-15T08:00:11Z","series_number":9001,"series_description":"AI fracture description (ChexFract)","station_name":"","serial_number":"","generation":1,"predecessor":null,"objects":["sr"],"sop_classes":["comprehensive3d"],"not_analysed":true}','received','','',0.0,0,0,0.0,'',1800000011.0,0.0,0.0,'','',0,'',0.0);
CREATE TABLE objects (
	job VARCHAR(32) NOT NULL, 
	part VARCHAR(64) NOT NULL, 
	kind VARCHAR(16) NOT NULL, 
	sop_class_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	sop_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	series_instance_uid VARCHAR(64) DEFAULT '' NOT NULL, 
	file TEXT DEFAULT '' NOT NULL, 
	purged_at FLOAT DEFAULT '0' NOT NULL, 
	CONSTRAINT pk_objects PRIMARY KEY (job, part), 
	CONSTRAINT fk_objects_job FOREIGN KEY(job) REFERENCES jobs (id)
);
INSERT INTO "objects" VALUES('c0059a1d1445bfd8352a8cf4338eaf17','sr','sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.4','2.25.99','reports/aa/c0059a1d.sr.dcm',0.0);
INSERT INTO "objects" VALUES('c60a5b85fbcd76a5a9017a0a3b98e04f','sr','sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.5','2.25.99','reports/aa/c60a5b85.sr.dcm',0.0);
INSERT INTO "objects" VALUES('b04c06d3410dfd6628acb7124c7028fc','sr','sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.6','2.25.99','reports/aa/b04c06d3.sr.dcm',0.0);
INSERT INTO "objects" VALUES('765ac2aa418745e812925df5649dc378','sr','sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.7','2.25.99','reports/aa/765ac2aa.sr.dcm',0.0);
INSERT INTO "objects" VALUES('6e5c3ae14bef59596cfef26cbc0078bd','sr','sr','1.2.840.10008.5.1.4.1.1.88.34','2.25.8','2.25.99','reports/aa/6e5c3ae1.sr.dcm',0.0);
CREATE INDEX ix_events_sop_instance_uid_id ON events (sop_instance_uid, id);
CREATE INDEX ix_instances_accession_number ON instances (accession_number);
CREATE INDEX ix_instances_patient_id ON instances (patient_id);
CREATE INDEX ix_instances_received_at ON instances (received_at);
CREATE INDEX ix_instances_study_instance_uid ON instances (study_instance_uid);
CREATE INDEX ix_jobs_received_at ON jobs (received_at);
CREATE INDEX ix_jobs_state_model_priority_received_at ON jobs (state, model, priority, received_at);
CREATE INDEX ix_deliveries_state_destination_next_at ON deliveries (state, destination, next_at);
CREATE INDEX ix_objects_sop_instance_uid ON objects (sop_instance_uid);
CREATE INDEX ix_deliveries_ask_at ON deliveries (ask_at);
COMMIT;
