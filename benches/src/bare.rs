//! The engine's end of one channel without the engine around it: a real controller makes the channel for an application in
//! another process, and the [`Tenant`], with all its checks, is in the bench's hands.

use crate::{cpu, rig};
use machnet_client::shm::layout::{FlowInfo, receive_kind};
use machnet_client::shm::ring::SlotHead;
use machnet_engine::controller::{Controller, Settings, SocketFile};
use machnet_engine::mailbox::{Command, Notice, Receiver, Sender, mailbox};
use machnet_engine::status::Status;
use machnet_engine::tenant::{FlowSlot, Link, Taken, Tenant};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

/// A control socket whose engine is the bench itself.
#[derive(Debug)]
pub struct Bare {
    commands: Receiver<Command>,
    notices: Sender<Notice>,
    controller: Option<JoinHandle<()>>,
    directory: PathBuf,
    socket: PathBuf,
}

impl Bare {
    /// Opens a control socket and serves it in a thread that sleeps while nobody attaches.
    pub fn start() -> std::io::Result<Self> {
        let directory = rig::scratch_directory()?;
        let socket = directory.join("machnet.sock");
        let (file, listener) = SocketFile::create(&socket, 0o600, None).map_err(std::io::Error::other)?;
        let (engine, commands) = mailbox()?;
        let (notices, inbox) = mailbox()?;
        let own = rig::ADDRESS.parse().map_err(std::io::Error::other)?;
        let settings = Settings { own, max_channels: 1, status: Status::default() };
        let mut controller = Controller::new(settings, listener, vec![engine], inbox)?;
        let serve = move || {
            controller.run();
            drop(file);
        };
        let controller = Some(std::thread::spawn(serve));
        Ok(Self { commands, notices, controller, directory, socket })
    }

    /// Where to attach.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Waits for an application.
    pub fn attached(&self) -> Box<Tenant> {
        let deadline = cpu::now() + rig::PATIENCE;
        loop {
            if let Some(Command::Attach(tenant)) = self.commands.try_receive() {
                return tenant;
            }
            assert!(cpu::now() < deadline, "nobody attached");
            std::thread::yield_now();
        }
    }

    /// Whether the application has gone, which is said to the controller.
    pub fn is_left(&self) -> bool {
        match self.commands.try_receive() {
            Some(Command::Gone { channel } | Command::Detach { channel }) => {
                self.notices.send(Notice::Ended { channel, fault: None });
                true
            }
            _ => false,
        }
    }
}

impl Drop for Bare {
    fn drop(&mut self) {
        self.notices.send(Notice::Stop);
        if let Some(controller) = self.controller.take() {
            let _: std::thread::Result<()> = controller.join();
        }
        let _: std::io::Result<()> = std::fs::remove_dir_all(&self.directory);
    }
}

/// Waits for the application's connect and opens its flow, as an engine does when the peer has answered.
pub fn open_flow(tenant: &mut Tenant) -> FlowSlot {
    let deadline = cpu::now() + rig::PATIENCE;
    let (request, to) = loop {
        if let Some(Taken::Connect { request, to }) = tenant.take().expect("an honest application") {
            break (request, to);
        }
        assert!(cpu::now() < deadline, "nobody connected");
        std::thread::yield_now();
    };
    let geometry = *tenant.geometry();
    let info = FlowInfo {
        peer: to.remote,
        local: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
        max_message: geometry.max_receive(),
        credit: geometry.flow_credit,
    };
    // The link is never followed here: the peer of the flow is the bench.
    let link = Link::Local { tenant: 0, flow: FlowSlot::default() };
    let flow = tenant.open_flow(link, info).expect("a table without flows has room");
    let head = SlotHead { kind: receive_kind::CONNECTED, count: 0, length: 0 };
    tenant.tell(head, tenant.handle(flow), request, &info.to_words());
    tenant.publish().expect("an honest application");
    flow
}

/// Takes every message that is there, at most `most`: checked and copied into private memory by the tenant, its bytes once
/// more to where an engine would send them from. Each is handed to `each` and acknowledged. Answers how many there were.
#[inline]
pub fn take_messages(
    tenant: &mut Tenant,
    most: usize,
    mut each: impl FnMut(&mut Tenant, FlowSlot, &[u8]),
) -> usize {
    let mut frame = [0; crate::MESSAGE_BYTES];
    for taken in 0..most {
        match tenant.take().expect("an honest application") {
            Some(Taken::Message { flow, handle, len }) => {
                let bytes = &mut frame[..len as usize];
                tenant.copy_out(handle, 0, bytes);
                tenant.acknowledged(flow, std::iter::once(handle));
                each(tenant, flow, bytes);
            }
            Some(_) => {}
            None => return taken,
        }
    }
    most
}

/// Takes what the application gives back: room for the messages to come.
#[inline]
pub fn take_returned(tenant: &mut Tenant) {
    while tenant.take_back().expect("an honest application").is_some() {}
}
