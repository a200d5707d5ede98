CREATE FUNCTION public.refuse_change() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN RAISE EXCEPTION '% is only appended to', TG_TABLE_NAME; END $$;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.bar (
    series_id integer NOT NULL,
    open_time bigint NOT NULL,
    revision integer NOT NULL,
    open double precision NOT NULL,
    high double precision NOT NULL,
    low double precision NOT NULL,
    close double precision NOT NULL,
    volume double precision,
    first_seen_at bigint NOT NULL,
    seq integer NOT NULL,
    link bytea NOT NULL,
    CONSTRAINT bar_high CHECK (((high >= open) AND (high >= close) AND (high < ('1000000000000000'::numeric)::double precision))),
    CONSTRAINT bar_low CHECK ((((0)::double precision < low) AND (low <= open) AND (low <= close))),
    CONSTRAINT bar_volume CHECK ((volume >= (0)::double precision))
);
CREATE TABLE public.calibration (
    series_id integer NOT NULL,
    run_id character varying NOT NULL,
    model_id character varying NOT NULL,
    cutoff bigint NOT NULL,
    state bytea NOT NULL
);
CREATE TABLE public.delay (
    forecast_id integer NOT NULL,
    available_at bigint NOT NULL
);
CREATE TABLE public.forecast (
    id integer NOT NULL,
    series_id integer NOT NULL,
    run_id character varying NOT NULL,
    cutoff bigint NOT NULL,
    model_id character varying NOT NULL,
    horizon integer NOT NULL,
    quantile_levels text NOT NULL,
    issued_at bigint NOT NULL,
    available_at bigint NOT NULL,
    late boolean NOT NULL,
    engine character varying NOT NULL,
    provenance text NOT NULL,
    payload_sha256 character varying NOT NULL,
    seq integer NOT NULL,
    link bytea NOT NULL,
    CONSTRAINT forecast_available CHECK ((available_at >= issued_at)),
    CONSTRAINT forecast_horizon CHECK ((horizon > 0))
);
CREATE SEQUENCE public.forecast_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.forecast_id_seq OWNED BY public.forecast.id;
CREATE TABLE public.forecast_step (
    forecast_id integer NOT NULL,
    step integer NOT NULL,
    series_id integer NOT NULL,
    target_open bigint NOT NULL,
    open_q10 double precision NOT NULL,
    open_q50 double precision NOT NULL,
    open_q90 double precision NOT NULL,
    high_q10 double precision NOT NULL,
    high_q50 double precision NOT NULL,
    high_q90 double precision NOT NULL,
    low_q10 double precision NOT NULL,
    low_q50 double precision NOT NULL,
    low_q90 double precision NOT NULL,
    close_q10 double precision NOT NULL,
    close_q50 double precision NOT NULL,
    close_q90 double precision NOT NULL,
    raw bytea NOT NULL,
    repaired bytea NOT NULL
);
CREATE TABLE public.model (
    id character varying NOT NULL,
    name character varying NOT NULL,
    revision character varying NOT NULL,
    weights_sha256 character varying NOT NULL
);
CREATE TABLE public.series (
    id integer NOT NULL,
    exchange character varying NOT NULL,
    symbol character varying NOT NULL,
    timeframe character varying NOT NULL,
    calendar character varying NOT NULL,
    run_id character varying DEFAULT 'live'::character varying NOT NULL
);
CREATE VIEW public.forecast_value AS
 SELECT n.exchange,
    n.symbol,
    n.timeframe,
    n.calendar,
    s.forecast_id,
    f.series_id,
    m.name AS model,
    f.model_id,
    f.run_id,
    f.cutoff,
    f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at,
    f.late,
    f.engine,
    s.step,
    s.target_open,
    'open'::text AS field,
    s.open_q10 AS q10,
    s.open_q50 AS q50,
    s.open_q90 AS q90
   FROM ((((public.forecast_step s
     JOIN public.forecast f ON ((f.id = s.forecast_id)))
     JOIN public.series n ON ((n.id = f.series_id)))
     JOIN public.model m ON (((m.id)::text = (f.model_id)::text)))
     LEFT JOIN public.delay d ON ((d.forecast_id = f.id)))
UNION ALL
 SELECT n.exchange,
    n.symbol,
    n.timeframe,
    n.calendar,
    s.forecast_id,
    f.series_id,
    m.name AS model,
    f.model_id,
    f.run_id,
    f.cutoff,
    f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at,
    f.late,
    f.engine,
    s.step,
    s.target_open,
    'high'::text AS field,
    s.high_q10 AS q10,
    s.high_q50 AS q50,
    s.high_q90 AS q90
   FROM ((((public.forecast_step s
     JOIN public.forecast f ON ((f.id = s.forecast_id)))
     JOIN public.series n ON ((n.id = f.series_id)))
     JOIN public.model m ON (((m.id)::text = (f.model_id)::text)))
     LEFT JOIN public.delay d ON ((d.forecast_id = f.id)))
UNION ALL
 SELECT n.exchange,
    n.symbol,
    n.timeframe,
    n.calendar,
    s.forecast_id,
    f.series_id,
    m.name AS model,
    f.model_id,
    f.run_id,
    f.cutoff,
    f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at,
    f.late,
    f.engine,
    s.step,
    s.target_open,
    'low'::text AS field,
    s.low_q10 AS q10,
    s.low_q50 AS q50,
    s.low_q90 AS q90
   FROM ((((public.forecast_step s
     JOIN public.forecast f ON ((f.id = s.forecast_id)))
     JOIN public.series n ON ((n.id = f.series_id)))
     JOIN public.model m ON (((m.id)::text = (f.model_id)::text)))
     LEFT JOIN public.delay d ON ((d.forecast_id = f.id)))
UNION ALL
 SELECT n.exchange,
    n.symbol,
    n.timeframe,
    n.calendar,
    s.forecast_id,
    f.series_id,
    m.name AS model,
    f.model_id,
    f.run_id,
    f.cutoff,
    f.issued_at,
    COALESCE(d.available_at, f.available_at) AS available_at,
    f.late,
    f.engine,
    s.step,
    s.target_open,
    'close'::text AS field,
    s.close_q10 AS q10,
    s.close_q50 AS q50,
    s.close_q90 AS q90
   FROM ((((public.forecast_step s
     JOIN public.forecast f ON ((f.id = s.forecast_id)))
     JOIN public.series n ON ((n.id = f.series_id)))
     JOIN public.model m ON (((m.id)::text = (f.model_id)::text)))
     LEFT JOIN public.delay d ON ((d.forecast_id = f.id)));
CREATE TABLE public.gap (
    series_id integer NOT NULL,
    open_time bigint NOT NULL,
    asked_at bigint NOT NULL
);
CREATE TABLE public.hold (
    id integer NOT NULL,
    exchange character varying NOT NULL,
    until bigint NOT NULL,
    reason text NOT NULL,
    seen_at bigint NOT NULL
);
CREATE SEQUENCE public.hold_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.hold_id_seq OWNED BY public.hold.id;
CREATE TABLE public.lease (
    name character varying NOT NULL,
    owner character varying NOT NULL,
    epoch integer NOT NULL,
    expires_at bigint NOT NULL,
    locked boolean DEFAULT true NOT NULL
);
CREATE VIEW public.newest_bar AS
 SELECT n.exchange,
    n.symbol,
    n.timeframe,
    n.calendar,
    n.run_id,
    b.series_id,
    b.open_time,
    b.revision,
    b.open,
    b.high,
    b.low,
    b.close,
    b.volume,
    b.first_seen_at,
    b.seq,
    b.link
   FROM (public.bar b
     JOIN public.series n ON ((n.id = b.series_id)))
  WHERE (b.revision = ( SELECT max(o.revision) AS max
           FROM public.bar o
          WHERE ((o.series_id = b.series_id) AND (o.open_time = b.open_time))));
CREATE TABLE public.quarantine (
    id integer NOT NULL,
    series_id integer NOT NULL,
    open_time bigint NOT NULL,
    "row" text NOT NULL,
    reason text NOT NULL,
    seen_at bigint NOT NULL,
    body text DEFAULT ''::text NOT NULL
);
CREATE SEQUENCE public.quarantine_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.quarantine_id_seq OWNED BY public.quarantine.id;
CREATE TABLE public.run (
    id character varying NOT NULL,
    door character varying NOT NULL,
    started_at bigint NOT NULL,
    plan text DEFAULT ''::text NOT NULL
);
CREATE SEQUENCE public.series_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.series_id_seq OWNED BY public.series.id;
CREATE VIEW public.settled AS
 SELECT v.exchange,
    v.symbol,
    v.timeframe,
    v.calendar,
    v.forecast_id,
    v.series_id,
    v.model,
    v.model_id,
    v.run_id,
    v.cutoff,
    v.issued_at,
    v.available_at,
    v.late,
    v.engine,
    v.step,
    v.target_open,
    v.field,
    v.q10,
    v.q50,
    v.q90,
    b.revision,
    b.first_seen_at AS settled_at,
        CASE v.field
            WHEN 'open'::text THEN b.open
            WHEN 'high'::text THEN b.high
            WHEN 'low'::text THEN b.low
            ELSE b.close
        END AS actual
   FROM (public.forecast_value v
     JOIN public.newest_bar b ON (((b.series_id = v.series_id) AND (b.open_time = v.target_open))));
CREATE TABLE public.slot (
    series_id integer NOT NULL,
    cutoff bigint NOT NULL,
    state character varying NOT NULL,
    epoch integer NOT NULL,
    leased_until bigint NOT NULL,
    attempts integer NOT NULL,
    reason text NOT NULL,
    changed_at bigint NOT NULL,
    CONSTRAINT slot_state CHECK (((state)::text = ANY ((ARRAY['pending'::character varying, 'leased'::character varying, 'done'::character varying, 'failed'::character varying, 'gap'::character varying, 'missed'::character varying])::text[])))
);
ALTER TABLE ONLY public.forecast ALTER COLUMN id SET DEFAULT nextval('public.forecast_id_seq'::regclass);
ALTER TABLE ONLY public.hold ALTER COLUMN id SET DEFAULT nextval('public.hold_id_seq'::regclass);
ALTER TABLE ONLY public.quarantine ALTER COLUMN id SET DEFAULT nextval('public.quarantine_id_seq'::regclass);
ALTER TABLE ONLY public.series ALTER COLUMN id SET DEFAULT nextval('public.series_id_seq'::regclass);
INSERT INTO public.alembic_version VALUES ('0007');
INSERT INTO public.bar VALUES (1, 1704405600000, 0, 40000, 40155.84, 39737.95, 40025.15, 176.48, 0, 1, '\xd19b700b2d3cce75f861cb2767eb56c18a7e28f23594cf9baabfa0f28736f69c');
INSERT INTO public.bar VALUES (1, 1704409200000, 0, 40025.15, 40079.11, 39998.62, 39998.73, 863.32, 0, 2, '\x30157b0f70f670d49bc6d4cc8cc02110df7022384551849bcc4f7e7970bccffc');
INSERT INTO public.bar VALUES (1, 1704412800000, 0, 39998.73, 40187.67, 39817.61, 40127.01, 541.92, 0, 3, '\x98c47febcad715bc0b9441a735123ac437df6901b30fac498e84436144220e29');
INSERT INTO public.bar VALUES (1, 1704416400000, 0, 40127.01, 40374.88, 40121.19, 40148.06, 300.41, 0, 4, '\x81bb4ed723698e0241dd670e6acfd9aa54fda23f6223e6347f5a7ca4f64467d0');
INSERT INTO public.bar VALUES (1, 1704420000000, 0, 40148.06, 40637.44, 39955.13, 40040.68, 423.26, 0, 5, '\x7e9b780fb9072300cc6f7e1b15b98293d7d8080643efabec6bf4207fe6880e3f');
INSERT INTO public.bar VALUES (2, 1704405600000, 0, 40000, 40026.74, 39956, 40025.15, 607.03, 0, 1, '\x85878e91f545341c333b68767b4e3cc7113fc52d152fc617b0dffb94587bcc9d');
INSERT INTO public.bar VALUES (2, 1704409200000, 0, 40025.15, 40025.34, 39868.55, 39998.73, 729.77, 0, 2, '\xdfc09f7213e35b691c4cda640ef5934d15fe2c5e89e5e7fe05bc9178de1ad4ed');
INSERT INTO public.calibration VALUES (2, 'replay-1', 'nano@0123456789ab', 1704412800000, '\x0102');
INSERT INTO public.delay VALUES (1, 1704412805007);
INSERT INTO public.forecast VALUES (1, 1, 'live', 1704412800000, 'nano@0123456789ab', 2, '[0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99]', 1704412800000, 1704412800007, false, 'eager', '{"model_id": "nano", "revision": "0123456789abcdef", "weights_sha256": "abababababababababababababababababababababababababababababababab", "dtype": "float32", "device": "cpu", "engine": "eager", "engine_reason": "compiling was switched off", "input_sha256": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", "batch_shape": [2, 4, 256], "library_versions": "numpy 2.0", "seconds": 0.30000000000000004}', '6d24647b5982297f1271e9ddf63336f5a44f26a4c29cdea3f5a6f2a84dd485fa', 1, '\xd2e2c5862cacf88cce0084db311c20f0d284630f49b66fad779b7c8b1112c664');
INSERT INTO public.forecast VALUES (2, 2, 'replay-1', 1704412800000, 'nano@0123456789ab', 2, '[0.01, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.99]', 1704412800000, 1704412800007, false, 'eager', '{"model_id": "nano", "revision": "0123456789abcdef", "weights_sha256": "abababababababababababababababababababababababababababababababab", "dtype": "float32", "device": "cpu", "engine": "eager", "engine_reason": "compiling was switched off", "input_sha256": "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd", "batch_shape": [2, 4, 256], "library_versions": "numpy 2.0", "seconds": 0.30000000000000004}', '4feac35a0f392417bcf8e3d356a6c4d870c81799a835df422b3f363da3df6fd3', 1, '\xfaabd5ea57c65b03386ea647d0542a140ef440fc24f37df04cc8d56e4cd8c4ef');
INSERT INTO public.forecast_step VALUES (1, 1, 1, 1704412800000, 39925.12338120355, 39995.0138042997, 40083.29304429099, 39982.115645042635, 40059.96436693504, 40136.508518022856, 39864.649326499304, 39941.99828297247, 40018.685643259, 39920.45160436682, 40006.07756874978, 40087.555313762015, '\xb713db2fe07be340852c602e9e7ce3404623bdf2a37ee34085ecbbda5a7fe340ce385fdef67fe3403b577e911c82e340d16bf2d24d84e3404ee3e5733285e3402bf101d8cb84e34033a6560d7c85e340f8b615716087e340c6e156944a89e340bc7cc8ca2c88e340c6fe44fd878be340d2ebfa0bc18be3409f6b208a848de340137c71abf48ee340adf4f3066f90e340c36b9e606992e34066fb27e24a94e34041325a181f94e340a3b14a8b9884e340002206040885e340823b5db3c385e3401922c1a26f86e340aff0d7407589e340dd307dd3358be340695df1374d8ce34061eca3aa108de3400358487d5b8de340334fa1ab0a8de340eb0b18dc7e8fe340ccc8bd0e6891e340c56ff12db690e3406926b826a593e340000f8c0bee94e3400a20db2f7296e3402c1aa5ddd095e3406a05a99a9697e340b396c7451099e34051b7dc879499e340fd9336477d9de3409fdef3e9f872e340dfbfa562e175e340de5d48c71477e3403ff034680b79e3402ba527d23e78e340ad935869f07be340b059c26d367be34030c46b0c537ee3402e5cf234917de340a3f05db7837ee340dd21eff1bf80e340df324f0dc882e3405672ec372983e3408671c81aaa83e3404a27d3a52884e3403fa0f8355985e34079c0d2af8088e3406356d55d3d8ae340c421caf0558ae340f0b56cf6ac8ae3408ac5b07f9f8de340930932c7f37ae340884cf629a27de34047008b730e7ee3407781bc5ed87ee3406697e1fd1480e3400a53fbb6a482e340aec3ecd1fb83e340009f928c3286e340c19916701c86e3407ead02b66a88e34052e3d3fa068ae3403f504171068be3407075717bc288e3401b27048b9a8de3407f3c56f1f68de3407d85477c4c8fe3408e92c2087f90e340ac8d5ffcc191e340dc5d21c5f192e340bae5411e8493e3408ed86d2ef992e340', '\xb713db2fe07be340852c602e9e7ce3404623bdf2a37ee34085ecbbda5a7fe340ce385fdef67fe3403b577e911c82e340d16bf2d24d84e3402bf101d8cb84e3404ee3e5733285e34033a6560d7c85e340f8b615716087e340bc7cc8ca2c88e340c6e156944a89e340c6fe44fd878be340d2ebfa0bc18be3409f6b208a848de340137c71abf48ee340adf4f3066f90e340c36b9e606992e34041325a181f94e34066fb27e24a94e340a3b14a8b9884e340002206040885e340823b5db3c385e3401922c1a26f86e340aff0d7407589e340dd307dd3358be340695df1374d8ce340334fa1ab0a8de34061eca3aa108de3400358487d5b8de340eb0b18dc7e8fe340c56ff12db690e340ccc8bd0e6891e3406926b826a593e340000f8c0bee94e3402c1aa5ddd095e3400a20db2f7296e3406a05a99a9697e340b396c7451099e34051b7dc879499e340fd9336477d9de3409fdef3e9f872e340dfbfa562e175e340de5d48c71477e3402ba527d23e78e3403ff034680b79e340b059c26d367be340ad935869f07be3402e5cf234917de34030c46b0c537ee340a3f05db7837ee340dd21eff1bf80e340df324f0dc882e3405672ec372983e3408671c81aaa83e3404a27d3a52884e3403fa0f8355985e34079c0d2af8088e3406356d55d3d8ae340c421caf0558ae340f0b56cf6ac8ae3408ac5b07f9f8de340930932c7f37ae340884cf629a27de34047008b730e7ee3407781bc5ed87ee3406697e1fd1480e3400a53fbb6a482e340aec3ecd1fb83e340c19916701c86e340009f928c3286e3407ead02b66a88e3407075717bc288e34052e3d3fa068ae3403f504171068be3401b27048b9a8de3407f3c56f1f68de3407d85477c4c8fe3408e92c2087f90e340ac8d5ffcc191e340dc5d21c5f192e3408ed86d2ef992e340bae5411e8493e340');
INSERT INTO public.forecast_step VALUES (1, 2, 1, 1704416400000, 39922.81208056075, 39998.32659540103, 40079.92747574317, 39977.93141963621, 40058.03169260674, 40136.01914066916, 39851.9988706114, 39935.553375493655, 40010.60474888594, 39932.68986795204, 40004.15142197242, 40089.53180752705, '\x31cd8cd01d7de340e747cdb5157ce340445f90fc597ee3401b63d2492780e3404ea030119880e3406d7f08aa0181e3401445ce091482e34039f47ad2ca83e3400b26b55eb885e34041a8a989bd85e340ce327873ca87e340b69d073d1789e3406932db740a8be340f476e6f3f68be34038b3b4f95a8de3405c31b09e988de3402d12a4d15e8fe340c8cc9db28891e3408de780517e93e340189ce1adfd91e340242d8290c395e3409b97fe0bc182e340e9875a379484e3408c8d30ce3d85e3408f847a5e5588e3406e7a2d035289e340dec16523e289e34036c6c6e64b88e340e456c551cd8be3401de60e06af8de340af36a003418fe340030bd8d0e18ee3406f32566f9292e3402b673cf8ad90e340eb7c19a69692e340139f6f5f6f95e34019dad78ecc95e34082e4cc9c0099e3408236cb427098e3409bfafde6dd98e340dd84ff575f9ae340abe5a5aaa89ae34074391a38f872e340e68b5e748974e34030ab06fb1e77e3401d80bff67f75e340b7311ee96279e3409a0d9619ab79e340c916c1f99b7be340a024d39eac7ce340c4dcc4bd337ee340f58540b5f17fe3409ee17adbbd7fe34009527ac52b83e3405c5548e1b983e340291fddfe1785e340299f8634aa86e340f1b6619f8987e34056588a15d888e340ed551a5a5389e34036ebf2be1289e340db2faf6d9d8be340a6aa1601fb8be34096152a1e447ce340da2ba13e927ce34030e39685b47fe34092f46513967fe3408014a45e3581e3402b5e39808681e340c68fd8471d83e3403c552b0cdd84e3404cb173bea384e3404a1cb3f9ac87e3406ee472d88488e34048b7aa74b088e340ed32690dba88e34029786257e38ce340ed4c88d1538de340a05e5e51588ee340fcc35e8be38fe3400e3891043193e34094623e409392e340bd15ae2cf693e340fa41314f6393e340', '\xe747cdb5157ce34031cd8cd01d7de340445f90fc597ee3401b63d2492780e3404ea030119880e3406d7f08aa0181e3401445ce091482e34039f47ad2ca83e3400b26b55eb885e34041a8a989bd85e340ce327873ca87e340b69d073d1789e3406932db740a8be340f476e6f3f68be34038b3b4f95a8de3405c31b09e988de3402d12a4d15e8fe340c8cc9db28891e340189ce1adfd91e3408de780517e93e340242d8290c395e3409b97fe0bc182e340e9875a379484e3408c8d30ce3d85e34036c6c6e64b88e3408f847a5e5588e3406e7a2d035289e340dec16523e289e340e456c551cd8be3401de60e06af8de340030bd8d0e18ee340af36a003418fe3402b673cf8ad90e3406f32566f9292e340eb7c19a69692e340139f6f5f6f95e34019dad78ecc95e3408236cb427098e3409bfafde6dd98e34082e4cc9c0099e340dd84ff575f9ae340abe5a5aaa89ae34074391a38f872e340e68b5e748974e3401d80bff67f75e34030ab06fb1e77e340b7311ee96279e3409a0d9619ab79e340c916c1f99b7be340a024d39eac7ce340c4dcc4bd337ee3409ee17adbbd7fe340f58540b5f17fe34009527ac52b83e3405c5548e1b983e340291fddfe1785e340299f8634aa86e340f1b6619f8987e34056588a15d888e34036ebf2be1289e340ed551a5a5389e340db2faf6d9d8be340a6aa1601fb8be34096152a1e447ce340da2ba13e927ce34092f46513967fe34030e39685b47fe3408014a45e3581e3402b5e39808681e340c68fd8471d83e3404cb173bea384e3403c552b0cdd84e3404a1cb3f9ac87e3406ee472d88488e34048b7aa74b088e340ed32690dba88e34029786257e38ce340ed4c88d1538de340a05e5e51588ee340fcc35e8be38fe34094623e409392e3400e3891043193e340fa41314f6393e340bd15ae2cf693e340');
INSERT INTO public.forecast_step VALUES (2, 1, 2, 1704412800000, 39923.34479077381, 40007.17895364527, 40087.66206962368, 39980.20899866827, 40064.6724664882, 40133.93094608596, 39853.59807018376, 39934.60279510806, 40018.053319314065, 39939.07941027127, 40002.55884459378, 40084.70505625684, '\x21f0ac79ca7de340fabeefbf317ae3402fa986086b7ee34005aea6a6ae7ee340d40d2d1f0c80e3406bd39fce8881e340f06430e2fa80e340226714a00484e34054556581a284e3409da818b0128ae340b0c726cd3988e340befefcb9e588e340443a8cfd378ae3404027eafa148be340384aa7e1f18be340889777f4db8de34018e2c560fb8fe3406d9d26ee8290e340aca2ac2ff592e340fd85c4d90c93e3409ff6df354694e3408453b823ce82e3408bb7aa702c83e340a4f91db08685e3402504277fb286e3405e0a48d56789e340fe3e2156ff89e34029f6e69db18ae3409665fe93dc8ce3401566d762cb8ce340cddb3ef8528de340cf70d8841590e340cae03c215591e3407af4f800c991e3409e66db997792e340a490d4a9ba94e340570225904193e340025604acb097e34031724fcabd98e3402db4db73dc97e3404016ddb4cf9ae34001b3c330c99ae340efbbe9669974e3407f89555a9c74e340ff146423b375e340621a1826f376e3402f9b0fbd5e7ae3402c257524ca78e3409de25354e77ae340a060f5c26d7ce340efe7a180397ee3406af7184ad37fe34067ac2d3b407fe34025a5d61d0580e3404077b5defe82e340366d1eac7685e340da958ece4186e34059c7e334f786e3403441e3ceae87e3408c0d5d118b89e340c5b4cab4418ae3404b517334918ce3401665199ff48be34016360c7b247de3406c2b76c9877de340c268878a6280e3405fbe0efe9d80e3406f8552597e82e3402b907a1d4c81e340090f50c96e83e340cd4d9cac0f84e3406aaa3b44a187e34071b7165b0888e340bb0e0ee25188e3408b86102b6c89e3406b59ff129c8be34097f7c96aac8be340a66aedc4b18ce340b51cce345b8fe3409f23d28f9692e340d83264fd2091e34087bac7b21192e34060d3102fb492e3407bcdb83c8a93e340', '\xfabeefbf317ae34021f0ac79ca7de3402fa986086b7ee34005aea6a6ae7ee340d40d2d1f0c80e340f06430e2fa80e3406bd39fce8881e340226714a00484e34054556581a284e340b0c726cd3988e340befefcb9e588e3409da818b0128ae340443a8cfd378ae3404027eafa148be340384aa7e1f18be340889777f4db8de34018e2c560fb8fe3406d9d26ee8290e340aca2ac2ff592e340fd85c4d90c93e3409ff6df354694e3408453b823ce82e3408bb7aa702c83e340a4f91db08685e3402504277fb286e3405e0a48d56789e340fe3e2156ff89e34029f6e69db18ae3401566d762cb8ce3409665fe93dc8ce340cddb3ef8528de340cf70d8841590e340cae03c215591e3407af4f800c991e3409e66db997792e340570225904193e340a490d4a9ba94e340025604acb097e3402db4db73dc97e34031724fcabd98e34001b3c330c99ae3404016ddb4cf9ae340efbbe9669974e3407f89555a9c74e340ff146423b375e340621a1826f376e3402c257524ca78e3402f9b0fbd5e7ae3409de25354e77ae340a060f5c26d7ce340efe7a180397ee34067ac2d3b407fe3406af7184ad37fe34025a5d61d0580e3404077b5defe82e340366d1eac7685e340da958ece4186e34059c7e334f786e3403441e3ceae87e3408c0d5d118b89e340c5b4cab4418ae3401665199ff48be3404b517334918ce34016360c7b247de3406c2b76c9877de340c268878a6280e3405fbe0efe9d80e3402b907a1d4c81e3406f8552597e82e340090f50c96e83e340cd4d9cac0f84e3406aaa3b44a187e34071b7165b0888e340bb0e0ee25188e3408b86102b6c89e3406b59ff129c8be34097f7c96aac8be340a66aedc4b18ce340b51cce345b8fe340d83264fd2091e34087bac7b21192e3409f23d28f9692e34060d3102fb492e3407bcdb83c8a93e340');
INSERT INTO public.forecast_step VALUES (2, 2, 2, 1704416400000, 39915.95817011509, 39997.66623814048, 40068.17045454, 39972.68404369604, 40062.725121850584, 40146.02222874158, 39864.34687511624, 39931.767788087556, 40025.127768517516, 39925.07339776706, 40001.18856204912, 40080.158161713254, '\x6f51eaba4b7de340d018098c4b7de3408a5f54a97e7de340ab077731117fe3408ee3da5f0a81e34056eded61af83e340bb8729faba82e340b36e23a60184e340d1c99f978086e340e90ef610dd85e34017a6d251b587e340ace212ee218ae340c693d191148be340a37fa36dd78be340e580f58bab8de34053188efd6b8be34058145d748590e340d994b854ca8fe340567a54d55490e340433826c58693e340f5dbe856f394e34014073dd90184e340f845d0403782e340f19aafe39584e34040b908a77587e340142ce6092889e340c49bf58c1787e340b0f27580008ae340e7f11ff9138ce3404f43690a648ce3403cbd3234d78fe34054a8c40b4f8ee340b10a9bc21a91e340e828b29bf390e34027fc2feda794e3404aa710757a94e340b3e12fb46095e3406bf807254895e340a4711e8cee99e340c40c19b6409ae3408d458fe9809be340c8a92f4ce39ce3408d968c5d6274e3405bbae9a32375e34002d899190b77e3407f08e981f977e3409ce611cf8c7be3403096d6a7bf7be3409cb82a2aff7ce340779513e3b57ae3409e7a02e1a87de340a83c1832a47ee340655971600881e340ca52b891787fe3408a07f2ab2c84e340ac79d1255185e340c2f67bab3284e34006f8d77dc585e340391f64e63287e340c4ab70154b89e3408600ae16248be340b2b14242cc8de340e35f37748d8ce340671f4d65e67ce3401f413ace397ee34024464659a27ee340cd32b3233580e3407575b5ac3d81e340344de27e8382e340aaeca34d1982e3408ec7c2b86a84e340486ce8893c86e3402ac261829786e3404847b3082688e34000ce234e0e89e340fe42f69fca8ae3402cca4d653a8de340bda259ea378de340bd5cee9bb88ee340f1add84ff090e3403d27a90f0592e340aa611ff95194e340a94cf8d5c891e34003981b5bbb95e340', '\xd018098c4b7de3406f51eaba4b7de3408a5f54a97e7de340ab077731117fe3408ee3da5f0a81e340bb8729faba82e34056eded61af83e340b36e23a60184e340e90ef610dd85e340d1c99f978086e34017a6d251b587e340ace212ee218ae340c693d191148be34053188efd6b8be340a37fa36dd78be340e580f58bab8de340d994b854ca8fe340567a54d55490e34058145d748590e340433826c58693e340f5dbe856f394e340f845d0403782e34014073dd90184e340f19aafe39584e340c49bf58c1787e34040b908a77587e340142ce6092889e340b0f27580008ae340e7f11ff9138ce3404f43690a648ce34054a8c40b4f8ee3403cbd3234d78fe340e828b29bf390e340b10a9bc21a91e3404aa710757a94e34027fc2feda794e3406bf807254895e340b3e12fb46095e340a4711e8cee99e340c40c19b6409ae3408d458fe9809be340c8a92f4ce39ce3408d968c5d6274e3405bbae9a32375e34002d899190b77e3407f08e981f977e340779513e3b57ae3409ce611cf8c7be3403096d6a7bf7be3409cb82a2aff7ce3409e7a02e1a87de340a83c1832a47ee340ca52b891787fe340655971600881e3408a07f2ab2c84e340c2f67bab3284e340ac79d1255185e34006f8d77dc585e340391f64e63287e340c4ab70154b89e3408600ae16248be340e35f37748d8ce340b2b14242cc8de340671f4d65e67ce3401f413ace397ee34024464659a27ee340cd32b3233580e3407575b5ac3d81e340aaeca34d1982e340344de27e8382e3408ec7c2b86a84e340486ce8893c86e3402ac261829786e3404847b3082688e34000ce234e0e89e340fe42f69fca8ae340bda259ea378de3402cca4d653a8de340bd5cee9bb88ee340f1add84ff090e340a94cf8d5c891e3403d27a90f0592e340aa611ff95194e34003981b5bbb95e340');
INSERT INTO public.gap VALUES (1, 1704402000000, 1704412800009);
INSERT INTO public.hold VALUES (1, 'binance', 1704412860000, '429 Too Many Requests', 1704412800007);
INSERT INTO public.lease VALUES ('writer', 'host 10526 8ba33e32', 1, 0, true);
INSERT INTO public.model VALUES ('nano@0123456789ab', 'nano', '0123456789abcdef', 'abababababababababababababababababababababababababababababababab');
INSERT INTO public.run VALUES ('live', 'live', 1704412800000, '');
INSERT INTO public.run VALUES ('replay-1', 'replay', 1704412800002, '{"horizon": 2}');
INSERT INTO public.series VALUES (1, 'binance', 'BTC/USDT', '1h', '24/7', 'live');
INSERT INTO public.series VALUES (2, 'binance', 'BTC/USDT', '1h', '24/7', 'replay-1');
INSERT INTO public.slot VALUES (1, 1704412800000, 'done', 1, 1704412800000, 0, '', 1704412800009);
INSERT INTO public.slot VALUES (1, 1704416400000, 'leased', 1, 1704412800001, 1, '', 1704412800009);
INSERT INTO public.slot VALUES (1, 1704420000000, 'failed', 1, 1704412800002, 2, 'no answer', 1704412800009);
SELECT pg_catalog.setval('public.forecast_id_seq', 1, false);
SELECT pg_catalog.setval('public.hold_id_seq', 1, true);
SELECT pg_catalog.setval('public.quarantine_id_seq', 1, false);
SELECT pg_catalog.setval('public.series_id_seq', 2, true);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.bar
    ADD CONSTRAINT bar_pkey1 PRIMARY KEY (series_id, open_time, revision);
ALTER TABLE ONLY public.bar
    ADD CONSTRAINT bar_series_id_seq_key UNIQUE (series_id, seq);
ALTER TABLE ONLY public.calibration
    ADD CONSTRAINT calibration_pkey PRIMARY KEY (series_id, run_id, model_id);
ALTER TABLE ONLY public.delay
    ADD CONSTRAINT delay_pkey PRIMARY KEY (forecast_id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_pkey1 PRIMARY KEY (id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_series_id_run_id_cutoff_model_id_key UNIQUE (series_id, run_id, cutoff, model_id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_series_id_run_id_seq_key UNIQUE (series_id, run_id, seq);
ALTER TABLE ONLY public.forecast_step
    ADD CONSTRAINT forecast_step_pkey PRIMARY KEY (forecast_id, step);
ALTER TABLE ONLY public.gap
    ADD CONSTRAINT gap_pkey PRIMARY KEY (series_id, open_time, asked_at);
ALTER TABLE ONLY public.hold
    ADD CONSTRAINT hold_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.lease
    ADD CONSTRAINT lease_pkey PRIMARY KEY (name);
ALTER TABLE ONLY public.model
    ADD CONSTRAINT model_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.run
    ADD CONSTRAINT run_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_names UNIQUE (exchange, symbol, timeframe, calendar, run_id);
ALTER TABLE ONLY public.series
    ADD CONSTRAINT series_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.slot
    ADD CONSTRAINT slot_pkey PRIMARY KEY (series_id, cutoff);
CREATE INDEX bar_seen ON public.bar USING btree (first_seen_at);
CREATE INDEX quarantine_place ON public.quarantine USING btree (series_id, open_time);
CREATE INDEX slot_owed ON public.slot USING btree (state, cutoff);
CREATE INDEX step_target ON public.forecast_step USING btree (series_id, target_open);
CREATE TRIGGER bar_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.bar FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER delay_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.delay FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER forecast_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.forecast FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER forecast_step_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.forecast_step FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER gap_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.gap FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER hold_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.hold FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER model_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.model FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER quarantine_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.quarantine FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER run_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.run FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
CREATE TRIGGER series_change BEFORE DELETE OR UPDATE OR TRUNCATE ON public.series FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_change();
ALTER TABLE ONLY public.bar
    ADD CONSTRAINT bar_series_id_fkey1 FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.calibration
    ADD CONSTRAINT calibration_model_id_fkey FOREIGN KEY (model_id) REFERENCES public.model(id);
ALTER TABLE ONLY public.calibration
    ADD CONSTRAINT calibration_run_id_fkey FOREIGN KEY (run_id) REFERENCES public.run(id);
ALTER TABLE ONLY public.calibration
    ADD CONSTRAINT calibration_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.delay
    ADD CONSTRAINT delay_forecast_id_fkey FOREIGN KEY (forecast_id) REFERENCES public.forecast(id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_model_id_fkey1 FOREIGN KEY (model_id) REFERENCES public.model(id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_run_id_fkey1 FOREIGN KEY (run_id) REFERENCES public.run(id);
ALTER TABLE ONLY public.forecast
    ADD CONSTRAINT forecast_series_id_fkey1 FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.forecast_step
    ADD CONSTRAINT forecast_step_forecast_id_fkey FOREIGN KEY (forecast_id) REFERENCES public.forecast(id);
ALTER TABLE ONLY public.forecast_step
    ADD CONSTRAINT forecast_step_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.gap
    ADD CONSTRAINT gap_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.quarantine
    ADD CONSTRAINT quarantine_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id);
ALTER TABLE ONLY public.slot
    ADD CONSTRAINT slot_series_id_fkey FOREIGN KEY (series_id) REFERENCES public.series(id);
