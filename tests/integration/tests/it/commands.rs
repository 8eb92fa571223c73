//! The command lines of README.md, deploy and docs, run as they are printed, with a real grpcurl.
//!
//! Only addresses and the word `orders` are replaced, since tests share their clusters.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use mirrormesh_integration::{Mesh, MeshSpec};
use mirrormesh_testkit::topics::create_topic;

use crate::rig::{PATIENCE, unique};

/// A line of a `sh` block, with its continuation lines.
#[derive(Debug, PartialEq)]
struct Line {
    /// Where it begins, e.g. `README.md:49`.
    place: String,
    text: String,
}

/// Documents that show commands, seen from the root of the repository.
fn documents() -> Result<Vec<PathBuf>> {
    let root = root();
    let mut found = vec![root.join("README.md"), root.join("deploy/compose/README.md")];
    for entry in std::fs::read_dir(root.join("docs"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    Ok(found)
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// All lines of the `sh` blocks of a document.
fn lines(name: &str, text: &str) -> Vec<Line> {
    let mut found: Vec<Line> = Vec::new();
    let (mut inside, mut continued) = (false, false);
    for (line, number) in text.lines().zip(1..) {
        if line.starts_with("```") {
            (inside, continued) = (line == "```sh", false);
            continue;
        }
        if !inside || line.trim().is_empty() {
            continue;
        }
        let part = line.strip_suffix('\\');
        let text = part.unwrap_or(line);
        match found.last_mut().filter(|_| continued) {
            Some(last) => last.text.push_str(text),
            None => found.push(Line { place: format!("{name}:{number}"), text: text.to_owned() }),
        }
        continued = part.is_some();
    }
    found
}

/// Where grpcurl is: on the `PATH`, or where `cargo xtask test` installs it.
fn grpcurl() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    // The test binary is target/debug/deps/it-….
    let tools = exe.ancestors().nth(3).map(|target| target.join("tools"));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(tools);
    folders.map(|folder| folder.join("grpcurl")).find(|program| program.is_file())
}

/// A mesh for one document, and what stands in the place of what the document says.
struct Stage {
    mesh: Mesh,
    grpcurl: PathBuf,
    replacements: Vec<(&'static str, String)>,
    orders: String,
    folder: PathBuf,
}

impl Stage {
    async fn set(grpcurl: PathBuf) -> Result<Self> {
        let pair = mirrormesh_testkit::shared::shared_pair().await?;
        let (orders, name) = (unique("sold"), unique("commands"));
        let folder = std::env::temp_dir().join(format!("mirrormesh-it-{name}"));
        let (source, target) = (pair.source.bootstrap(), pair.target.bootstrap());
        for (topic, partitions) in [("", 4), (".eu", 4), (".audit", 1)] {
            create_topic(&source, &format!("{orders}{topic}"), partitions).await?;
        }
        let mesh = Mesh::start(&folder, &MeshSpec::default()).await?;
        let api = mesh.addresses()[0].api.clone();
        let replacements = vec![
            ("localhost:7400", api),
            ("localhost:9092", source.clone()),
            ("kafka-source:19092", source),
            ("localhost:9192", target.clone()),
            ("kafka-target:19092", target),
            ("orders", orders.clone()),
        ];
        Ok(Self { mesh, grpcurl, replacements, orders, folder })
    }

    /// Runs a line as a shell does; standard output, and the error if it failed.
    async fn run(&self, line: &str) -> Result<Result<String, String>> {
        let mut line = line.to_owned();
        for (printed, real) in &self.replacements {
            line = line.replace(printed, real);
        }
        let endless = line.contains("/WatchFlow");
        if endless {
            line = line.replacen("grpcurl ", "grpcurl -max-time 3 ", 1);
        }
        let folder = self.grpcurl.parent().context("grpcurl is in no folder")?.to_owned();
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(std::iter::once(folder).chain(std::env::split_paths(&path)))?;
        let run = move || Command::new("sh").args(["-c", &line]).env("PATH", path).output();
        let output = tokio::task::spawn_blocking(run).await??;
        let (said, error) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // A watch has no end of its own.
        let ended = endless && error.contains("DeadlineExceeded") && !said.is_empty();
        Ok(if output.status.success() || ended { Ok(said.into_owned()) } else { Err(error.into_owned()) })
    }

    /// Runs a line until it works, as long as the mesh says that it may work in a moment: workers are only starting.
    async fn run_soon(&self, line: &str) -> Result<Result<String, String>> {
        let deadline = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.run(line).await? {
                Err(error) if error.contains("Unavailable") && tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// Waits until the flow of the documents has its topics: later lines name them.
    async fn discovered(&self) -> Result<()> {
        let mut api = self.mesh.api()?;
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while api.flow_topics("uk-hq").await?.topics.len() < 3 {
            let flow = api.flow("uk-hq").await?;
            ensure!(tokio::time::Instant::now() < deadline, "{flow:#?}\n{}", self.mesh.log_tails());
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Ok(())
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _gone = std::fs::remove_dir_all(&self.folder);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_commands_work_as_printed() -> Result<()> {
    let grpcurl = grpcurl();
    let mut wrong = Vec::new();
    let mut seen = 0;
    for document in documents()? {
        let text = std::fs::read_to_string(&document)?;
        let name = document.strip_prefix(root())?.display().to_string();
        let (ours, others): (Vec<Line>, Vec<Line>) =
            lines(&name, &text).into_iter().partition(|line| line.text.starts_with("grpcurl "));
        for Line { place, text } in others {
            println!("not run: {place}: {text}");
        }
        seen += ours.len();
        let Some(grpcurl) = grpcurl.clone().filter(|_| !ours.is_empty()) else {
            for Line { place, text } in &ours {
                println!("not run, grpcurl is missing: {place}: {text}");
            }
            continue;
        };
        let stage = Stage::set(grpcurl).await?;
        for Line { place, text } in ours {
            if let Err(error) = stage.run_soon(&text).await? {
                wrong.push(format!("{place}: {text}\n{error}"));
            }
            if text.contains("/CreateFlow") {
                stage.discovered().await?;
            }
        }
    }
    ensure!(wrong.is_empty(), "{} lines fail:\n{}", wrong.len(), wrong.join("\n"));
    // README and the compose guide have this many at least: the blocks were found.
    ensure!(seen >= 15, "only {seen} grpcurl lines were found");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn grpcurl_shows_error_details_and_both_spellings() -> Result<()> {
    let Some(grpcurl) = grpcurl() else {
        println!("not run: grpcurl is missing");
        return Ok(());
    };
    let stage = Stage::set(grpcurl).await?;
    let call = |request: &str, method: &str| {
        format!("grpcurl -plaintext -d '{request}' localhost:7400 mirrormesh.v1.{method}")
    };
    let get = call(r#"{"name":"flows/none"}"#, "FlowService/GetFlow");
    let error = stage.run(&get).await?.err().context("a flow that does not exist")?;
    ensure!(error.contains("FLOW_NOT_FOUND") && !error.contains("not recognized"), "{error}");

    for (id, address) in [("uk", "localhost:9092"), ("hq", "localhost:9192")] {
        let request = format!(r#"{{"cluster_id":"{id}","cluster":{{"bootstrap_servers":["{address}"]}}}}"#);
        let made = stage.run(&call(&request, "ClusterService/CreateCluster")).await?;
        ensure!(made.is_ok(), "{made:?}");
    }
    let request = r#"{"flow_id":"f","flow":{"source":"clusters/uk","target":"clusters/hq","topics":{"include":["orders,more"]}}}"#;
    let error = stage.run(&call(request, "FlowService/CreateFlow")).await?.err().context("a comma")?;
    ensure!(
        error.contains("flow.topics.include[0]") && error.contains("can't be in a topic name"),
        "{error}"
    );

    let request = r#"{"flow_id":"f","flow":{"source":"clusters/uk","target":"clusters/hq","topics":{"include":["orders"]}}}"#;
    let made = stage.run(&call(request, "FlowService/CreateFlow")).await?;
    ensure!(made.is_ok(), "{made:?}");
    for path in ["records.on_loss", "records.onLoss"] {
        let request = format!(
            r#"{{"flow":{{"name":"flows/f","records":{{"on_loss":"LOSS_POLICY_CONTINUE"}}}},"update_mask":{{"paths":["{path}"]}}}}"#
        );
        let updated = stage.run(&call(&request, "FlowService/UpdateFlow")).await?;
        ensure!(updated.as_ref().is_ok_and(|flow| flow.contains("LOSS_POLICY_CONTINUE")), "{updated:?}");
    }
    // Without a mask only what the request fills changes.
    let request = r#"{"flow":{"name":"flows/f","records":{"throttle":{"records_per_second":7}}}}"#;
    let updated = stage.run(&call(request, "FlowService/UpdateFlow")).await?;
    let kept = |flow: &String| {
        let include = format!("\"include\": [\n      \"{}\"\n", stage.orders);
        flow.contains("LOSS_POLICY_CONTINUE") && flow.contains(&include)
    };
    ensure!(updated.as_ref().is_ok_and(kept), "{updated:?}");
    let request = r#"{"flow":{"name":"flows/f"},"update_mask":{"paths":["state"]}}"#;
    let error = stage.run(&call(request, "FlowService/UpdateFlow")).await?.err().context("output only")?;
    ensure!(error.contains("output only") && error.contains("update_mask"), "{error}");
    Ok(())
}

#[test]
fn blocks_of_documents_are_read_with_continued_lines() {
    let text = "a\n```sh\none\ntwo \\\n  three\n\n```\nfour\n```text\nfive\n```\n```sh\nsix\n```\n";
    let found = lines("x.md", text);
    let line = |number: u32, text: &str| Line { place: format!("x.md:{number}"), text: text.to_owned() };
    assert_eq!(found, [line(3, "one"), line(4, "two   three"), line(13, "six")]);
}
