use krake_hooks::api::crds;
fn main() {
    let dir = std::env::args().nth(2);
    for (file, crd) in crds::all() {
        match &dir {
            Some(dir) => std::fs::write(format!("{dir}/{file}"), crds::yaml(&crd)).expect("write"),
            None => println!("---\n{}", crds::yaml(&crd)),
        }
    }
}
