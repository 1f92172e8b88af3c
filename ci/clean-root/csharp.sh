# The packages, from a folder that NuGet knows as its only source.
. /test/common.sh
export DOTNET_ROOT=/opt/dotnet DOTNET_CLI_HOME="$HOME" NUGET_PACKAGES="$HOME/nuget" LD_LIBRARY_PATH=/opt/dotnet/openssl
export DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 DOTNET_CLI_TELEMETRY_OPTOUT=1 DOTNET_SKIP_FIRST_TIME_EXPERIENCE=1 DOTNET_NOLOGO=1
export PATH="/opt/dotnet:$HOME/.dotnet/tools:$PATH"
cat >nuget.config <<'XML'
<?xml version="1.0" encoding="utf-8"?>
<configuration>
  <packageSources>
    <clear />
    <add key="dist" value="/dist/csharp" />
  </packageSources>
</configuration>
XML
mkdir program
cat >program/program.csproj <<XML
<Project Sdk="Microsoft.NET.Sdk">
  <PropertyGroup>
    <OutputType>Exe</OutputType>
    <TargetFramework>netcoreapp3.1</TargetFramework>
    <LangVersion>8.0</LangVersion>
    <UseAppHost>false</UseAppHost>
  </PropertyGroup>
  <ItemGroup>
    <PackageReference Include="Machnet" Version="$VERSION" />
  </ItemGroup>
</Project>
XML
# The ten lines are a whole program from C# 9 on; the compiler of .NET Core 3.1 wants them in a method.
{
    grep '^using [A-Z][A-Za-z.]*;$' /test/lines.cs
    echo 'static class Program { static async System.Threading.Tasks.Task Main() {'
    grep -v '^using [A-Z][A-Za-z.]*;$' /test/lines.cs
    echo '} }'
} >program/Program.cs
quietly() { "$@" >log 2>&1 || { cat log >&2 && return 1; }; }
quietly dotnet build program -nologo -nodeReuse:false -p:UseSharedCompilation=false -c Release -o built
quietly dotnet tool install --global Machnet.Tool --version "$VERSION"
expect "machnet $VERSION" "$(dotnet machnet --version)"
start_sidecar dotnet-machnet
answer="$(timeout 60 env -u LD_LIBRARY_PATH dotnet built/program.dll)"
expect "question from 127.0.0.1" "${answer%:*}"
stop_sidecar
