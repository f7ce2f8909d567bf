//! An operator that cannot start says so in one line, and exits.

use std::path::PathBuf;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::process::Command;

use crate::support::operator::NAMESPACE;
use crate::support::runner::Story;
use crate::support::stage::Stage;

pub fn stories() -> Vec<Story> {
    let mut stories = crate::stories![Together:
        an_operator_without_configuration_or_api_server_says_so_in_one_line,
    ];
    stories.extend(crate::stories![Alone:
        an_operator_whose_port_is_taken_says_so_in_one_line,
    ]);
    stories
}

const BINARY: &str = env!("CARGO_BIN_EXE_krake-hooks");

async fn an_operator_without_configuration_or_api_server_says_so_in_one_line(stage: Stage) {
    let scratch = Scratch::new(&stage);
    let nobody = scratch.file(
        "kubeconfig",
        "{apiVersion: v1, kind: Config, current-context: c, \
          clusters: [{name: c, cluster: {server: 'https://127.0.0.1:1'}}], \
          users: [{name: c, user: {token: none}}], \
          contexts: [{name: c, context: {cluster: c, user: c}}]}",
    );
    let good = scratch.file("good.yaml", "admin: {listen: '127.0.0.1:0'}\n");
    let unknown = scratch.file("unknown.yaml", "callbak: {}\n");
    let absent = scratch.0.join("absent.yaml").display().to_string();
    for (config, named) in [
        (&absent, "absent.yaml"),
        (&unknown, "callbak"),
        (&good, "127.0.0.1:1"),
    ] {
        let mut command = Command::new(BINARY);
        command.args(["run", "--config", config]);
        command.env("KUBECONFIG", &nobody);
        ends_in_one_line(command, named).await;
    }
}

async fn an_operator_whose_port_is_taken_says_so_in_one_line(stage: Stage) {
    // So that it meets nobody but the port.
    stage.cluster.operator().await.leave().await;
    let scratch = Scratch::new(&stage);
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let taken = taken.local_addr().expect("its number").to_string();
    for (admin, callback) in [("127.0.0.1:0", taken.as_str()), (&taken, "127.0.0.1:0")] {
        let config = scratch.file(
            "busy.yaml",
            &format!("{{admin: {{listen: '{admin}'}}, callback: {{listen: '{callback}'}}}}"),
        );
        let arguments = ["run", "--config", &config];
        let mut command = stage.cluster.command(BINARY, &arguments);
        command.env("POD_NAMESPACE", NAMESPACE);
        ends_in_one_line(command, &taken).await;
    }
}

async fn ends_in_one_line(mut command: Command, named: &str) {
    let ran = tokio::time::timeout(Duration::from_secs(60), command.kill_on_drop(true).output());
    let ran = ran
        .await
        .unwrap_or_else(|_| panic!("{named}: still running"));
    let ran = ran.expect("the binary can be started");
    let said = String::from_utf8([ran.stdout, ran.stderr].concat()).expect("text");
    assert!(!ran.status.success(), "{named}: {said}");
    let last = said.trim().lines().last().unwrap_or_default();
    assert!(last.contains(named), "{named}: {said}");
    assert!(!said.contains("panicked"), "{said}");
}

/// A directory of the story's own, gone when it ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(stage: &Stage) -> Self {
        let path = std::env::temp_dir().join(&stage.namespace);
        std::fs::create_dir(&path).expect("a scratch directory");
        Self(path)
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a scratch file");
        path.display().to_string()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left in a temporary directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
