//! Writes the C# declarations of libmachnet: `machnet-csharp-bindings FFI_SOURCES OUTPUT`.

use std::path::Path;

/// What is left out: the functions and structs of the original C library, which C# has no use for.
const SOURCES: [&str; 10] = [
    "batch.rs",
    "cancel.rs",
    "channel.rs",
    "common.rs",
    "flow.rs",
    "message.rs",
    "news.rs",
    "stats.rs",
    "status.rs",
    "stream.rs",
];

/// Functions that only read a field or two of memory that nobody else writes: no lock, no system call, no copy. A runtime that can is told
/// not to leave its cooperative mode for them.
const SHORT: [&str; 3] = ["machnet_message_data", "machnet_message_len", "machnet_loan_data"];

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, sources, output] = &arguments[..] else {
        eprintln!("usage: machnet-csharp-bindings FFI_SOURCES OUTPUT");
        std::process::exit(2);
    };
    if let Err(error) = write(Path::new(sources), Path::new(output)) {
        eprintln!("{output}: {error}");
        std::process::exit(1);
    }
}

fn write(sources: &Path, output: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let mut builder = csbindgen::Builder::default()
        .csharp_dll_name("machnet")
        .csharp_namespace("Machnet.Native")
        .csharp_class_name("NativeMethods")
        .csharp_use_nint_types(false) // C# 8 does not know nuint.
        .csharp_generate_const_filter(|name| name.starts_with("MACHNET_NEWS_"))
        .always_included_types(["MachnetStatus"]);
    for source in SOURCES {
        builder = builder.input_extern_file(sources.join(source));
    }
    builder.generate_csharp_file(output)?;
    let mut text = std::fs::read_to_string(output)?;
    for name in SHORT {
        text = mark(&text, name).ok_or_else(|| format!("there is no {name}"))?;
    }
    std::fs::write(output, text.replace("\r\n", "\n"))?;
    Ok(())
}

/// Puts the attribute before the function's own.
fn mark(text: &str, name: &str) -> Option<String> {
    let attribute = format!("        [DllImport(__DllName, EntryPoint = \"{name}\"");
    let (before, after) = text.split_once(&attribute)?;
    Some(format!("{before}#if NET8_0_OR_GREATER\n        [SuppressGCTransition]\n#endif\n{attribute}{after}"))
}
