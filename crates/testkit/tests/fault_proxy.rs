//! The fault proxy does to a connection what it is told to, and nothing else.

use std::io::ErrorKind;
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use walcast_testkit::fault_proxy::{Cut, Direction, FaultProxy, Flow};

const WHILE: Duration = Duration::from_millis(300);

/// Both ends of a connection through a proxy.
struct Line {
    proxy: FaultProxy,
    listener: TcpListener,
    client: TcpStream,
    server: TcpStream,
}

impl Line {
    async fn open() -> Result<Line> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let proxy = FaultProxy::start(listener.local_addr()?.to_string()).await?;
        let client = TcpStream::connect(proxy.address()).await?;
        let (server, _) = listener.accept().await?;
        Ok(Line { proxy, listener, client, server })
    }
}

async fn pass(from: &mut TcpStream, to: &mut TcpStream, text: &[u8]) -> Result<Duration> {
    let started = Instant::now();
    from.write_all(text).await?;
    let mut got = vec![0; text.len()];
    timeout(Duration::from_secs(10), to.read_exact(&mut got)).await.context("nothing arrives")??;
    ensure!(got == text, "other bytes arrive");
    Ok(started.elapsed())
}

/// Whether the other end has reset the connection.
async fn is_reset(stream: &mut TcpStream) -> bool {
    let read = timeout(Duration::from_secs(10), stream.read(&mut [0; 16])).await;
    matches!(read, Ok(Err(error)) if error.kind() == ErrorKind::ConnectionReset)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_end_of_one_side_reaches_the_other() -> Result<()> {
    let Line { proxy, mut client, mut server, .. } = Line::open().await?;
    let much: Vec<u8> = (0..3_000_000_u32).map(|number| number.to_le_bytes()[0]).collect();
    let (mut client_read, mut client_write) = client.split();
    let (mut got, echo) = (Vec::new(), async {
        let (mut read, mut write) = server.split();
        tokio::io::copy(&mut read, &mut write).await?;
        write.shutdown().await
    });
    let (sent, echoed, read) = tokio::join!(
        async {
            client_write.write_all(&much).await?;
            client_write.shutdown().await
        },
        echo,
        client_read.read_to_end(&mut got)
    );
    sent?;
    echoed?;
    read?;
    ensure!(got == much, "{} bytes came back of {}", got.len(), much.len());
    ensure!(proxy.passed(Direction::ToServer) == 3_000_000 && proxy.passed(Direction::ToClient) == 3_000_000);
    Ok(())
}

#[tokio::test]
async fn a_black_hole_swallows_one_direction_without_a_word_until_it_lets_go() -> Result<()> {
    let Line { proxy, mut client, mut server, .. } = Line::open().await?;
    proxy.set_flow(Direction::ToClient, Flow::Held);
    pass(&mut client, &mut server, b"question").await?;
    server.write_all(b"answer").await?;
    let mut got = [0; 6];
    ensure!(timeout(WHILE, client.read_exact(&mut got)).await.is_err(), "it came through");
    proxy.heal();
    client.read_exact(&mut got).await?;
    ensure!(&got == b"answer");
    Ok(())
}

#[tokio::test]
async fn the_end_of_one_side_does_not_leave_a_black_hole() -> Result<()> {
    let Line { proxy, mut client, server, .. } = Line::open().await?;
    proxy.set_flows(Flow::Held);
    drop(server);
    ensure!(timeout(WHILE, client.read(&mut [0; 1])).await.is_err(), "the client was told");
    proxy.heal();
    ensure!(client.read(&mut [0; 1]).await? == 0);
    Ok(())
}

#[tokio::test]
async fn a_delay_is_one_of_each_way_and_a_limit_one_of_bytes_per_second() -> Result<()> {
    let Line { proxy, mut client, mut server, .. } = Line::open().await?;
    proxy.set_flow(Direction::ToServer, Flow::Delayed(WHILE));
    let slow = pass(&mut client, &mut server, b"late").await?;
    let quick = pass(&mut server, &mut client, b"soon").await?;
    ensure!(slow >= WHILE && quick < WHILE, "{slow:?} and {quick:?}");
    let per_second = NonZeroU64::new(100_000).context("not zero")?;
    proxy.set_flow(Direction::ToServer, Flow::Limited(per_second));
    let took = pass(&mut client, &mut server, &vec![7; 50_000]).await?;
    ensure!(took >= Duration::from_millis(400) && took < Duration::from_secs(3), "{took:?}");
    Ok(())
}

#[tokio::test]
async fn a_reset_ends_both_sides_at_once_and_later_connections_are_let_in_or_refused() -> Result<()> {
    let Line { proxy, listener, mut client, mut server } = Line::open().await?;
    // The kernel has accepted it, maybe before the proxy knows.
    pass(&mut client, &mut server, b"hello").await?;
    ensure!(proxy.cut(Cut::Reset).await == 1 && proxy.open() == 0);
    ensure!(is_reset(&mut client).await && is_reset(&mut server).await);
    proxy.refuse();
    let mut refused = TcpStream::connect(proxy.address()).await?;
    ensure!(is_reset(&mut refused).await);
    proxy.heal();
    let mut client = TcpStream::connect(proxy.address()).await?;
    let (mut server, _) = listener.accept().await?;
    pass(&mut client, &mut server, b"again").await?;
    ensure!(proxy.accepted() == 2, "{}", proxy.accepted());
    Ok(())
}

#[tokio::test]
async fn a_finish_passes_on_all_that_the_server_has_sent_before_it_saw_the_end() -> Result<()> {
    let Line { proxy, mut client, mut server, .. } = Line::open().await?;
    // It sends all the time, so that something is on its way when the cut comes.
    let sending = tokio::spawn(async move {
        let (mut read, mut write) = server.split();
        let mut sent = 0_usize;
        loop {
            tokio::select! {
                biased;
                ended = read.read_u8() => {
                    ensure!(ended.is_err(), "the client has sent nothing");
                    write.shutdown().await?;
                    return Ok(sent);
                }
                written = write.write(&[1; 1_000]) => sent += written?,
            }
        }
    });
    let mut got = Vec::new();
    let reading = client.read_to_end(&mut got);
    let cutting = async {
        tokio::time::sleep(WHILE).await;
        proxy.cut(Cut::Finish).await
    };
    let (read, cut) = tokio::join!(reading, cutting);
    read?;
    let sent = sending.await??;
    ensure!(cut == 1 && sent == got.len() && sent > 0, "{sent} sent, {} arrived", got.len());
    Ok(())
}
