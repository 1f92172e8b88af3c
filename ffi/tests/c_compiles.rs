//! The headers compile as C11 and as C++, the layouts are the documented ones, and C programs link and run against the shared and
//! the static library. Without a C compiler these tests say so and do nothing.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails the test")]

use std::path::{Path, PathBuf};
use std::process::Command;

const STRICT: [&str; 4] = ["-Wall", "-Wextra", "-pedantic", "-Werror"];

fn package() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Where cargo has put the libraries: one above the tests' programs.
fn libraries() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    program.ancestors().nth(1).unwrap().to_owned()
}

/// The compiler, unless there is none.
fn compiler(variable: &str, otherwise: &str) -> Option<String> {
    let name = std::env::var(variable).unwrap_or_else(|_| otherwise.to_owned());
    let there = Command::new(&name).arg("--version").output().is_ok_and(|output| output.status.success());
    if !there {
        eprintln!("SKIPPED: there is no compiler `{name}`; install one or set {variable}");
    }
    there.then_some(name)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?} ended with {}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn compile(compiler: &str, arguments: &[&str], source: &Path) {
    run(Command::new(compiler)
        .args(arguments)
        .args(STRICT)
        .arg("-I")
        .arg(package().join("include"))
        .args(["-c", "-o", "/dev/null"])
        .arg(source));
}

/// Links a program with a library by its full name, so that both kinds can be tried.
fn program(compiler: &str, source: &str, library: &str) -> PathBuf {
    // The name that a program asks the dynamic linker for; there already, if another test was first.
    let _ = std::os::unix::fs::symlink("libmachnet.so", libraries().join("libmachnet.so.0"));
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{source}-{library}"));
    run(Command::new(compiler)
        .args(["-std=c11", "-g"])
        .args(STRICT)
        .arg("-I")
        .arg(package().join("include"))
        .arg(package().join("tests/c").join(source))
        .arg("-o")
        .arg(&program)
        .arg(libraries().join(library))
        .arg(format!("-Wl,-rpath,{}", libraries().display()))
        .args(["-lpthread", "-ldl", "-lm"]));
    program
}

#[test]
fn header_and_programs_compile_as_c11() {
    let Some(cc) = compiler("CC", "cc") else { return };
    for source in
        ["tests/c/layout.c", "tests/c/nulls.c", "tests/c/compat.c", "tests/c/flows.c", "../examples/c/echo.c"]
    {
        compile(&cc, &["-std=c11"], &package().join(source));
    }
}

#[test]
fn header_compiles_as_cplusplus() {
    let Some(cxx) = compiler("CXX", "c++") else { return };
    for standard in ["-std=c++11", "-std=c++17", "-std=c++20"] {
        compile(&cxx, &["-x", "c++", standard], &package().join("tests/c/layout.c"));
    }
}

#[test]
fn null_pointers_and_a_missing_sidecar_are_answered_through_both_libraries() {
    let Some(cc) = compiler("CC", "cc") else { return };
    for library in ["libmachnet.so", "libmachnet.a"] {
        run(Command::new(program(&cc, "nulls.c", library)).env("MACHNET_SOCKET", "/nonexistent/machnet.sock"));
    }
}

#[test]
fn the_version_of_the_header_is_the_version_of_the_package() {
    let number = |text: &str| text.parse::<u32>().unwrap();
    let version = number(env!("CARGO_PKG_VERSION_MAJOR")) << 16
        | number(env!("CARGO_PKG_VERSION_MINOR")) << 8
        | number(env!("CARGO_PKG_VERSION_PATCH"));
    assert_eq!(machnet::channel::MACHNET_VERSION, version);
}

#[test]
fn the_status_table_is_the_client_librarys() {
    for (code, name) in machnet_client::Error::CODES {
        let status = machnet::status::MachnetStatus::of_code(code).unwrap();
        assert_eq!(format!("{status:?}"), name);
        assert_eq!(machnet::status::name_of(code).to_str(), Ok(name));
        let text = machnet::status::text_of(code).to_str().unwrap();
        assert_eq!(machnet_client::Error::general_text(code), Some(text));
    }
}
