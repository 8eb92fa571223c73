//! Precedence, refusal and types of layered settings.

use super::*;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Log {
    format: Format,
    filter: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Format {
    Text,
    Json,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Common {
    log: Log,
    metrics_listen: String,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Demo {
    #[serde(flatten)]
    common: Common,
    data_dir: String,
    node_id: u64,
    ratio: f64,
    fast: bool,
    members: Vec<String>,
    capacity: Option<u32>,
    labels: BTreeMap<String, String>,
}

fn demo() -> Demo {
    Demo {
        common: Common {
            log: Log { format: Format::Text, filter: "info".into() },
            metrics_listen: "127.0.0.1:9404".into(),
        },
        data_dir: "data".into(),
        node_id: 1,
        ratio: 0.5,
        fast: false,
        members: vec!["a".into()],
        capacity: None,
        labels: BTreeMap::new(),
    }
}

fn layers() -> Layers {
    Layers { free: vec!["labels".into()], ..Layers::new(&demo()).unwrap() }
}

fn env(variables: &[(&str, &str)]) -> Env {
    variables.iter().copied().collect()
}

fn file(dir: &tempfile::TempDir, name: &str, text: &str) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, text).unwrap();
    path
}

fn message(layers: &Layers) -> String {
    load::<Demo>(layers).unwrap_err().to_string()
}

#[test]
fn without_layers_the_defaults_hold() {
    assert_eq!(load::<Demo>(&layers()).unwrap(), demo());
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = layers();
    layers.file = Some(file(&dir, "a.yaml", "data_dir: file\nnode_id: 2\nratio: 3\nlog: {filter: file}\n"));
    layers.env = env(&[("MIRRORMESH_DATA_DIR", "env"), ("MIRRORMESH_NODE_ID", "7"), ("OTHER", "x")]);
    layers.flags = vec![("data_dir".into(), "first".into()), ("data_dir".into(), "flag".into())];
    let got: Demo = load(&layers).unwrap();
    assert_eq!((got.data_dir.as_str(), got.node_id, got.ratio), ("flag", 7, 3.0));
    assert_eq!(got.common.log, Log { format: Format::Text, filter: "file".into() });
    assert_eq!(got.common.metrics_listen, "127.0.0.1:9404");
}

#[test]
fn toml_json_and_dotted_keys_mean_the_same() {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("a.toml", "members = [\"x\", \"y\"]\n[log]\nformat = \"json\"\n"),
        ("a.json", r#"{"members": ["x", "y"], "log": {"format": "json"}}"#),
        ("a.yml", "members: [x, y]\nlog.format: json\n"),
    ] {
        let got: Demo = load(&Layers { file: Some(file(&dir, name, text)), ..layers() }).unwrap();
        assert_eq!(got.members, ["x", "y"], "{name}");
        assert_eq!(got.common.log, Log { format: Format::Json, filter: "info".into() }, "{name}");
    }
}

#[test]
fn variables_nest_and_split_and_keep_text_that_looks_like_numbers() {
    let env = env(&[
        ("MIRRORMESH_LOG__FORMAT", "json"),
        ("MIRRORMESH_MEMBERS", "1=a:7401, 2=b:7401,"),
        ("MIRRORMESH_FAST", "true"),
        ("MIRRORMESH_CAPACITY", "12"),
        ("MIRRORMESH_DATA_DIR", "007"),
        ("MIRRORMESH_NODE_ID", ""),
        ("MIRRORMESH_CONFIG", "elsewhere.yaml"),
        ("MIRRORMESHED", "no prefix"),
    ]);
    let got: Demo = load(&Layers { env, ..layers() }).unwrap();
    assert_eq!(got.common.log.format, Format::Json);
    assert_eq!(got.members, ["1=a:7401", "2=b:7401"]);
    assert_eq!((got.fast, got.capacity), (true, Some(12)));
    assert_eq!(got.data_dir, "007", "text stays as it was written");
    assert_eq!(got.node_id, 1, "an empty variable is not set");
}

#[test]
fn an_unknown_key_is_refused_with_the_nearest_known_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut layers = layers();
    layers.file = Some(file(&dir, "a.yaml", "data_dri: x\n"));
    let path = layers.file.as_ref().unwrap().display().to_string();
    assert_eq!(message(&layers), format!("unknown key `data_dri` in {path}: did you mean `data_dir`?"));
    layers.file = Some(file(&dir, "a.yaml", "log:\n  fromat: json\n"));
    assert_eq!(message(&layers), format!("unknown key `log.fromat` in {path}: did you mean `log.format`?"));
    layers.file = Some(file(&dir, "a.yaml", "entirely_different: 1\n"));
    assert_eq!(message(&layers), format!("unknown key `entirely_different` in {path}"));
    layers.file = Some(file(&dir, "a.yaml", "data_dir:\n  nested: 1\n"));
    assert_eq!(message(&layers), format!("key `data_dir` in {path} is a table of keys, expected text"));
    layers.file = Some(file(&dir, "a.yaml", "data_dri:\n"));
    assert!(message(&layers).starts_with("unknown key `data_dri`"), "{}", message(&layers));
}

#[test]
fn an_unknown_variable_is_refused_by_its_own_name() {
    let env = env(&[("MIRRORMESH_LOG_FORMAT", "json"), ("MIRRORMESH_DATA_DIR__X", "1")]);
    let text = message(&Layers { env, ..layers() });
    assert!(
        text.contains(
            "unknown key `MIRRORMESH_LOG_FORMAT` in the environment: did you mean `MIRRORMESH_LOG__FORMAT`?"
        ),
        "{text}"
    );
    assert!(text.contains("unknown key `MIRRORMESH_DATA_DIR__X` in the environment"), "{text}");
}

#[test]
fn every_fault_is_listed_in_one_answer() {
    let mut layers = layers();
    layers.env = env(&[("MIRRORMESH_NODE_ID", "one"), ("MIRRORMESH_FAST", "perhaps")]);
    layers.flags = vec![("ratio".into(), "half".into()), ("log".into(), "json".into())];
    let SettingsError::Refused { faults } = load::<Demo>(&layers).unwrap_err() else { panic!("not refused") };
    let texts: Vec<_> = faults.iter().map(ToString::to_string).collect();
    assert_eq!(
        texts,
        [
            "key `MIRRORMESH_FAST` in the environment is `perhaps`, expected true or false",
            "key `MIRRORMESH_NODE_ID` in the environment is `one`, expected a whole number",
            "key `ratio` in --set is `half`, expected a number",
            "key `log` in --set is `json`, expected a table of keys",
        ]
    );
}

#[test]
fn values_that_only_the_type_itself_can_judge_are_named_too() {
    let text = message(&Layers { env: env(&[("MIRRORMESH_LOG__FORMAT", "xml")]), ..layers() });
    assert!(text.contains("xml") && text.contains("text") && text.contains("json"), "{text}");
    let text = message(&Layers { env: env(&[("MIRRORMESH_NODE_ID", "-1")]), ..layers() });
    assert!(text.contains("node_id") || text.contains("-1"), "{text}");
}

#[test]
fn free_paths_take_any_key_and_others_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let text = "labels:\n  security.protocol: SSL\n  team: 7\n";
    let got: Demo = load(&Layers { file: Some(file(&dir, "a.yaml", text)), ..layers() }).unwrap();
    assert_eq!(got.labels.get("security.protocol").map(String::as_str), Some("SSL"));
    assert_eq!(got.labels.get("team").map(String::as_str), Some("7"));
    let strict = Layers { file: Some(file(&dir, "a.yaml", text)), free: Vec::new(), ..layers() };
    assert!(message(&strict).contains("unknown key `labels.team`"), "{}", message(&strict));
}

#[test]
fn files_that_are_missing_broken_empty_or_of_no_known_format() {
    let dir = tempfile::tempdir().unwrap();
    let absent = Layers { file: Some(dir.path().join("absent.yaml")), ..layers() };
    assert!(message(&absent).contains("absent.yaml"));
    let broken = Layers { file: Some(file(&dir, "b.toml", "data_dir = \n")), ..layers() };
    assert!(message(&broken).contains("does not parse"), "{}", message(&broken));
    let odd = Layers { file: Some(file(&dir, "b.ini", "data_dir = x\n")), ..layers() };
    assert!(message(&odd).contains(".yaml"), "{}", message(&odd));
    let empty = Layers { file: Some(file(&dir, "c.yaml", "# nothing yet\n\n")), ..layers() };
    assert_eq!(load::<Demo>(&empty).unwrap(), demo());
}
